"""Faults in real runs and tools, which are then started again and compared with those that had none.

    python tests/soak --work FOLDER [--tools 50] [--kills 50] [--ends 2] [--deaths] [--disks 4] [--seed 0] [--record FILE]

`--tools` kills the offline ones, `--kills` the driver of stock main_ppo (`kill -9`); `--ends` are SIGTERMs, `--deaths` kills
one part of a run after the other, `--disks` (as root) fill those of metrics and rollouts. One cluster runs at a time. The
record has seed, fault, moment and outcome of each trial; it is written after each, and the same command goes on from it.
Exit status 1 where one did not end as it should.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).parent.resolve()
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from soak import offline, training  # noqa: E402
from soak.record import Record  # noqa: E402
from tiny import write_model  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--record", type=Path, default=HERE / "record.json")
    parser.add_argument("--tools", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--ends", type=int, default=0)
    parser.add_argument("--deaths", action="store_true")
    parser.add_argument("--disks", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    work, record = given.work.resolve(), Record(given.record)
    if not (work / "model").exists():
        write_model(work / "model")
    offline.soak(work, record, given.tools, given.seed)
    training.soak(work, record, kills=given.kills, ends=given.ends, deaths=given.deaths, disks=given.disks, seed=given.seed)
    print(f"{len(record.trials) - len(record.failed())} of {len(record.trials)} trials are as they should be")
    sys.exit(min(1, len(record.failed())))


if __name__ == "__main__":
    main()
