"""The room that a run's checkpoints take, and whether the disk has it.

A checkpoint of an FSDP engine holds, by `actor.checkpoint.save_contents`, the float32 weights (4 P bytes), AdamW's two
moments of what is trained (8 bytes each), and the whole model once more where `hf_model` is asked for.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from recipes.arithmetic import ModelShape, lora_rank, shape_of

GB = 10**9  # as disks are sold


def checkpoint_size(model: ModelShape, contents: list[str], *, rank: int = 0) -> int:
    """Bytes of one checkpoint.

    Args:
        model: its shape.
        contents: of it: `model`, `optimizer`, `hf_model`; `extra` is small.
        rank: of a LoRA adapter, which is then all that is trained; 0 without one.
    """
    adapter = model.adapter(rank)
    weights, trained = 4 * (model.parameters + adapter), adapter if rank else model.parameters
    return weights * ("model" in contents) + 8 * trained * ("optimizer" in contents) + weights * ("hf_model" in contents)


def most_at_once(config: Any) -> int | None:
    """Checkpoints that lie on the disk together, at most; None where none is ever removed and their number is not known.

    One more than stay: what is superseded goes when the next one is whole.
    """
    trainer = config.trainer
    if trainer.save_freq <= 0:
        return 0
    keep_last = ((config.algorithm.get("l2t") or {}).get("checkpoints") or {}).get("keep_last")
    kept = keep_last + 1 if keep_last else trainer.get("max_actor_ckpt_to_keep")  # one is the best by validation
    made = -(-trainer.total_training_steps // trainer.save_freq) if trainer.total_training_steps else None
    return min((number for number in (kept and kept + 1, made) if number), default=None)


def disk_lines(config: Any) -> list[str]:
    """What the checkpoints take, as text."""
    size, most = _size(config), most_at_once(config)
    if size is None or most == 0:
        return []
    every = f"one every {config.trainer.save_freq} steps, of {size / GB:,.1f} GB"
    if most is None:
        return [f"checkpoints: {every}, none is removed; algorithm.l2t.checkpoints.keep_last=2 keeps two and the best"]
    return [
        f"checkpoints: {every}, at most {most} at once: {most * size / GB:,.1f} GB in {config.trainer.default_local_dir}"
    ]


def disk_problem(config: Any) -> str | None:
    """Why the disk cannot hold the checkpoints; None if it can, or if nobody knows what they take.

    What lies in the run's folder already makes room or is gone on with, so it counts as free.
    """
    size, most = _size(config), most_at_once(config) or 1
    if size is None or config.trainer.save_freq <= 0:
        return None
    folder = Path(config.trainer.default_local_dir).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    own = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free = shutil.disk_usage(there).free + own
    if free >= most * size:
        return None
    return (
        f"the disk of {there} has {free / GB:,.1f} GB for checkpoints, but {most} of {size / GB:,.1f} GB lie there at once: "
        "set trainer.default_local_dir to a folder on a larger disk, lower algorithm.l2t.checkpoints.keep_last, or leave "
        "the optimizer out (actor_rollout_ref.actor.checkpoint.save_contents=[model,extra]; then no run can be resumed)"
    )


def _size(config: Any) -> int | None:
    model = shape_of(config.actor_rollout_ref.model.path)
    if model is None:
        return None
    return checkpoint_size(model, list(config.actor_rollout_ref.actor.checkpoint.save_contents), rank=lora_rank(config))
