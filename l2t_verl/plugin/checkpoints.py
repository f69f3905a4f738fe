"""Which checkpoints stay: the newest ones and the best by validation; verl alone keeps all, or forgets which was best.

verl's `trainer.max_actor_ckpt_to_keep` knows only what its own process has saved, so after a resume the older ones stay for
ever, and it leaves the rest of a step's folder behind.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

SCORES_FILE = "validation_scores.json"
MARK = "latest_checkpointed_iteration.txt"  # verl's: the step to resume from
REMOVED = ".removed"  # after a folder's name: it is no checkpoint any more


def validation_score(metrics: Mapping[str, float]) -> float | None:
    """The mean accuracy of a validation over its data sources, by verl's metrics; None if there is none.

    Example:
        >>> validation_score({"val-core/a/acc/mean@4": 0.5, "val-core/b/acc/mean@4": 0.7, "val-core/b/acc/best@4/mean": 1.0})
        0.6
    """
    found = [value for name, value in metrics.items() if name.startswith("val-core/") and "/mean@" in name]
    return sum(found) / len(found) if found and all(map(math.isfinite, found)) else None


def steps_to_keep(steps: Iterable[int], scores: Mapping[int, float], *, last: int) -> set[int]:
    """The newest steps, and the one of those with a score that has the best; of equal ones the newest.

    Args:
        steps: that have a checkpoint.
        scores: of validations, by step.
        last: how many of the newest.

    Example:
        >>> sorted(steps_to_keep([10, 20, 30, 40], {10: 0.3, 20: 0.5, 30: 0.4}, last=2))
        [20, 30, 40]
    """
    ordered = sorted(steps)
    scored = [step for step in ordered if step in scores]
    return {*ordered[-last:], *([max(scored, key=lambda step: (scores[step], step))] if scored else [])}


def keep_score(folder: Path, step: int, score: float | None) -> None:
    """Write the score of a step's validation beside its checkpoint, the file whole or not at all."""
    if score is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (SCORES_FILE + ".partial")
    partial.write_text(json.dumps({str(number): value for number, value in (read_scores(folder) | {step: score}).items()}))
    os.replace(partial, folder / SCORES_FILE)


def read_scores(folder: Path) -> dict[int, float]:
    """The scores of all validations so far, by step."""
    file = folder / SCORES_FILE
    return {int(step): score for step, score in json.loads(file.read_text()).items()} if file.exists() else {}


def remove_others(folder: Path, *, last: int) -> list[int]:
    """Remove what `steps_to_keep` does not name; the step that verl marked as whole stays in any case.

    A folder loses its name first, so that none is ever half a checkpoint.

    Args:
        folder: `trainer.default_local_dir`.
        last: how many of the newest stay.

    Returns:
        The steps that were removed.
    """
    found = {int(path.name.rpartition("_")[2]): path for path in folder.glob("global_step_*") if path.name[12:].isdecimal()}
    kept = steps_to_keep(found, read_scores(folder), last=last)
    if (mark := folder / MARK).exists():
        kept.add(int(mark.read_text()))
    removed = sorted(set(found) - kept)
    for step in removed:
        os.replace(found[step], found[step].with_name(found[step].name + REMOVED))
    for path in folder.glob("global_step_*" + REMOVED):  # also what an interrupted start left
        shutil.rmtree(path, ignore_errors=True)
    return removed
