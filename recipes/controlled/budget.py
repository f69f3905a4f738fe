"""Whether `token_budget` is reached: λ by dual ascent, without a price at first (from above) and with one (from below).

python -m recipes.controlled.budget run above
python -m recipes.controlled.budget table
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import torch

from recipes.controlled.comparison import load
from recipes.controlled.grid import STARTS_FOLDER
from recipes.controlled.run import run
from recipes.controlled.settings import Settings

RESULTS = Path(__file__).parents[2] / "runs" / "controlled" / "budget"
BUDGET, STEPS, LAST = 30, 120, 30  # tokens of a right response; updates; of which the last are averaged
# Below the 36 that `shaped` comes to without a price: no price makes responses longer, so that 45 is not kept from below
# λ at the first step: without a price right responses are longer than the budget, at this one they become shorter
FROM = {"above": 0.0, "below": 4.0}


def settings_of(side: str, seed: int) -> Settings:
    """The run that comes to the budget from this side."""
    credit = {"method": "shaped", "token_budget": float(BUDGET), "length_cost": FROM[side], "length_cost_rate": 0.5}
    shared: dict[str, Any] = {"steps": STEPS, "split": "validation", "test": 600}
    return Settings(f"from_{side}", seed, start=1, estimator="l2t", l2t={"credit": credit}, **shared)


def table(runs: list[dict[str, Any]]) -> str:
    """Tokens of right responses over the last steps, with a 95 % interval over steps, and the extremes on the way."""
    lines = ["| from | seed | λ, first → last | tokens | over the budget, % | most, least on the way |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for found in runs:
        settings, curve = found["settings"], found["curve"]
        tokens = [point["correct tokens"] for point in curve]
        mean, error = statistics.mean(tokens[-LAST:]), 1.96 * statistics.stdev(tokens[-LAST:]) / math.sqrt(LAST)
        tens = [statistics.mean(tokens[i : i + 10]) for i in range(0, len(tokens), 10)]
        lines.append(
            f"| {settings['arm'].removeprefix('from_')} | {settings['seed']} | {curve[0]['length cost']:.1f} → "
            f"{curve[-1]['length cost']:.1f} | {mean:.1f} ± {error:.1f} | {100 * (mean / BUDGET - 1):+.1f} | "
            f"{max(tens):.0f}, {min(tens):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("side", nargs="?", choices=list(FROM))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "run":
        if arguments.side is None:
            parser.error(f"run needs a side: {', '.join(FROM)}")
        print(run(settings_of(arguments.side, arguments.seed), STARTS_FOLDER / "1", arguments.results))
    else:
        print(table(load(arguments.results)))


if __name__ == "__main__":
    main()
