"""Breaks a copy of the code on purpose, one place in each package, and says which tests of the fast suite see it.

    python tests/faults.py             each fault against the files that are meant to see it: minutes
    python tests/faults.py --whole     against the whole fast suite, until its first failure

Exit status 1 where a fault is seen by none.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.resolve()


class Fault(NamedTuple):
    """What is broken: in `file`, `now` becomes `then`; `tests` are meant to see it."""

    what: str
    file: str
    now: str
    then: str
    tests: tuple[str, ...]


FAULTS = (
    Fault(
        "an episode of exactly the least length is merged",
        "l2t_verl/episodes/limits.py",
        ">= min_episode_tokens",
        "> min_episode_tokens",
        ("tests/test_episodes.py", "tests/test_episodes_properties.py"),
    ),
    Fault(
        "gains are taken from the start instead of the episode before",
        "l2t_verl/gain/differences.py",
        "scores[..., 1:] - scores[..., :-1]",
        "scores[..., 1:] - scores[..., :1]",
        ("tests/test_gain.py",),
    ),
    Fault(
        "a tool's tokens count in the penalty",
        "l2t_verl/compression/penalty.py",
        "ids = torch.where(response_mask > 0, episode_ids, -1)",
        "ids = episode_ids",
        ("tests/test_compression.py",),
    ),
    Fault(
        "a rollout's length is compared with its own, too",
        "l2t_verl/credit/length_price.py",
        "((own.sum(dim=0) - own) /",
        "(own.sum(dim=0) /",
        ("tests/test_credit.py", "tests/test_credit_properties.py"),
    ),
    Fault(
        "each copy of a split context gives its log-probs again",
        "l2t_verl/packing/rows.py",
        "first=self.first if i == 0 else None",
        "first=self.first",
        ("tests/test_packed.py",),
    ),
    Fault(
        "verl's padding rows enter the groups",
        "l2t_verl/plugin/driver/estimator.py",
        "rows = (~context.is_padding).nonzero().flatten()",
        "rows = torch.arange(len(context.is_padding))",
        ("tests/test_estimator.py",),
    ),
    Fault(
        "the sandbox refuses no system call",
        "l2t_verl/sandbox/seccomp.py",
        "for number in filter(None, refused):",
        "for number in ():",
        ("tests/test_sandbox.py",),
    ),
    Fault(
        "near duplicates look further apart than they are",
        "l2t_verl/data/duplicates.py",
        "(len(own) + self._sizes[position] - n)",
        "(len(own) + self._sizes[position])",
        ("l2t_verl/data", "tests/test_data.py"),
    ),
    Fault(
        "no answer is a vote",
        "l2t_verl/evaluate/statistics.py",
        "if answer is not None)",
        ")",
        ("l2t_verl/evaluate", "tests/test_evaluate.py"),
    ),
    Fault(
        "J is drawn upside down",
        "l2t_verl/inspector/sparkline.py",
        "HEIGHT * (1 - (score - self.low) / height)",
        "HEIGHT * ((score - self.low) / height)",
        ("l2t_verl/inspector", "tests/test_inspect_page.py"),
    ),
    Fault(
        "of a step done twice the first is shown",
        "l2t_verl/report/runs.py",
        "default=0), start[2].stat().st_mtime))",
        "default=0), start[2].stat().st_mtime), reverse=True)",
        ("tests/test_report.py",),
    ),
    Fault(
        "memory is pinned where there is no GPU",
        "patches/unpinned_offload.py",
        "return policy(pin_memory=False)",
        "return policy(pin_memory=pin_memory)",
        ("tests/test_patches.py",),
    ),
    Fault(
        "batches that cannot be divided are let through",
        "recipes/checks.py",
        "problems += _batches(config, model)",
        "",
        ("tests/test_recipes.py",),
    ),
)


def copied(folder: Path) -> Path:
    """The tracked files, as they are."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "l2t_verl" / "patches").symlink_to("../patches")  # where the package carries them when it is installed
    return folder


def seen_by(copy: Path, fault: Fault, whole: bool) -> str:
    """The first test that fails with the fault in place; empty where none does."""
    file = copy / fault.file
    text = file.read_text()
    if text.count(fault.now) != 1:
        sys.exit(f"{fault.file} holds {fault.now!r} {text.count(fault.now)} times instead of once: mend tests/faults.py")
    file.write_text(text.replace(fault.now, fault.then))
    try:
        # the path is for what the tests start: their processes shall not find the installed checkout first
        variables = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        line = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *(() if whole else fault.tests)]
        done = subprocess.run(line, cwd=copy, env=variables, capture_output=True, text=True, check=False)
    finally:
        file.write_text(text)
    if done.returncode > 1:
        sys.exit(f"the tests could not be run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0] if failed else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="the whole fast suite for each fault")
    whole = parser.parse_args().whole
    unseen = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder))
        for fault in FAULTS:
            test = seen_by(copy, fault, whole)
            unseen += not test
            print(f"{'seen' if test else 'NOT SEEN'}: {fault.file}: {fault.what}{f' ({test})' if test else ''}", flush=True)
    print(f"{len(FAULTS) - unseen} of {len(FAULTS)} faults are seen")
    sys.exit(min(unseen, 1))


if __name__ == "__main__":
    main()
