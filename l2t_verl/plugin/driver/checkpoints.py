"""Which checkpoint a run goes on from, and which stay: the newest ones and the best by validation.

verl marks a step's checkpoint as the one to resume from before it validates, logs the step's metrics and dumps its rollouts:
a run that is killed in between goes on behind that step, and has lost them. So its mark is held back until they are on the
disk. And it writes the mark in place: a full disk leaves an empty one, from which it does not start.

verl alone keeps all checkpoints, or forgets which was best: its `trainer.max_actor_ckpt_to_keep` knows only what its own
process has saved, so after a resume the older ones stay for ever, and it leaves the rest of a step's folder behind.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from l2t_verl.files import write_whole

logger = logging.getLogger(__name__)

SCORES_FILE = "validation_scores.json"
MARK = "latest_checkpointed_iteration.txt"  # verl's: the step to resume from
HELD = f".{MARK}.held"  # the mark of a checkpoint whose step is not over
LAST_WRITTEN = "data.pt"  # of a checkpoint, before its mark
REMOVED = ".removed"  # after a folder's name: it is no checkpoint any more


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be resumed from, with the remedy."""


def marked(folder: Path) -> str | None:
    """What verl's mark says: the number of a step, or whatever a full disk has left; None if there is no mark."""
    mark = folder / MARK
    return mark.read_text(errors="replace").strip() if mark.exists() else None


def hold_mark(folder: Path, before: str | None) -> None:
    """Take a mark back that verl has just written, until `release_mark`; there is a whole one at every moment.

    Args:
        folder: `trainer.default_local_dir`.
        before: what the mark said before; None if there was none.
    """
    write_whole(folder / HELD, marked(folder) or "")
    if before is None:
        (folder / MARK).unlink()
    else:
        write_whole(folder / MARK, before)


def keeps_two(settings: Any) -> bool:
    """Whether the checkpoint before is still there when verl has written one.

    Args:
        settings: verl's node `trainer`.
    """
    most = settings.get("max_actor_ckpt_to_keep")
    return (most is None or most > 1) and not settings.get("remove_previous_ckpt_in_save", False)


def release_mark(folder: Path) -> None:
    """Let a mark that was held back count."""
    os.replace(folder / HELD, folder / MARK)


def mend_mark(folder: Path) -> None:
    """Make a mark that names no checkpoint name the newest whole one: verl would not start, or start from nothing.

    Args:
        folder: `trainer.default_local_dir`.

    Raises:
        CheckpointError: there is no whole one.
    """
    said = marked(folder)
    if said is None or (_is_number(said) and (folder / f"global_step_{said}").is_dir()):
        return
    whole = [step for step, path in _steps(folder).items() if (path / LAST_WRITTEN).exists()]
    if not whole:
        raise CheckpointError(
            f"{folder / MARK} names no checkpoint that is there ({said!r}), and none is whole: remove the file to begin anew"
        )
    logger.warning("l2t: %s named no checkpoint (%r); the run goes on from step %d", folder / MARK, said, max(whole))
    write_whole(folder / MARK, str(max(whole)))


def _steps(folder: Path) -> dict[int, Path]:
    return {int(path.name[12:]): path for path in folder.glob("global_step_*") if _is_number(path.name[12:])}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


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
    scores = read_scores(folder) | {step: score}
    write_whole(folder / SCORES_FILE, json.dumps({str(number): value for number, value in scores.items()}))


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
    found = _steps(folder)
    kept = steps_to_keep(found, read_scores(folder), last=last)
    kept |= {int(said) for said in (marked(folder),) if said is not None and _is_number(said)}
    removed = sorted(set(found) - kept)
    for step in removed:
        os.replace(found[step], found[step].with_name(found[step].name + REMOVED))
    for path in folder.glob("global_step_*" + REMOVED):  # also what an interrupted start left
        shutil.rmtree(path, ignore_errors=True)
    return removed


def world_size_problem(settings: Any) -> str | None:
    """Why the checkpoint that would be resumed from cannot be loaded by these GPUs; None if it can, or if there is none.

    FSDP's shards are loaded by as many ranks as wrote them.

    Args:
        settings: verl's node `trainer`.
    """
    if settings.resume_mode == "disable":
        return None
    mark = Path(settings.default_local_dir) / MARK
    if settings.resume_mode == "resume_path":
        folder = Path(settings.resume_from_path or "")
    elif mark.exists():
        folder = mark.with_name(f"global_step_{mark.read_text().strip()}")
    else:
        return None
    shards = [re.match(r"model_world_size_(\d+)_rank_", file.name) for file in (folder / "actor").glob("model_world_size_*")]
    written, ranks = {int(shard[1]) for shard in shards if shard}, settings.nnodes * settings.n_gpus_per_node
    if not written or ranks in written:
        return None
    return (
        f"the checkpoint {folder} was written by {max(written)} GPUs, but trainer.nnodes={settings.nnodes} × "
        f"trainer.n_gpus_per_node={settings.n_gpus_per_node} are {ranks}: take as many as then, or begin a new run from "
        f"its weights (python -m verl.model_merger merge --backend fsdp --local_dir {folder / 'actor'} --target_dir FOLDER, "
        "then actor_rollout_ref.model.path=FOLDER and another trainer.default_local_dir)"
    )
