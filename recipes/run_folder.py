"""A run's folder keeps the configuration that it was started with: a checkpoint is gone on from with no other one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from l2t_verl.files import differing, write_whole

# Where it runs, what it writes and keeps: may change from start to start
FREE = (
    *("trainer.", "ray_kwargs.", "algorithm.l2t.checkpoints.", "algorithm.l2t.outcome.workers", "reward.num_workers"),
    *("actor_rollout_ref.rollout.nnodes", "actor_rollout_ref.rollout.n_gpus_per_node"),
)
# … but for what makes another run of it: the schedule is bent by another end, and the trainer's mode decides what is saved
FIXED = ("trainer.total_epochs", "trainer.total_training_steps", "trainer.v1.")
# What a start that ran out of memory lowers, by the last part of its name; nothing that is learnt depends on it
MEMORY = re.compile(
    r"\.(\w*max_token_len_per_gpu|\w*micro_batch_size(_per_gpu)?|\w*_offload|offload_policy|reshard_after_forward"
    r"|forward_prefetch|enable_gradient_checkpointing|entropy_checkpointing|entropy_from_logits_with_chunking"
    r"|max_tokens_per_micro_batch|gpu_memory_utilization|max_num_seqs|max_num_batched_tokens|tensor_model_parallel_size"
    r"|enforce_eager|free_cache_engine|enable_chunked_prefill)$"
)
WORLD = "GPUs (trainer.nnodes × trainer.n_gpus_per_node)"  # FSDP's shards are loaded by as many ranks as wrote them


def differences(config: Any, folder: Path) -> list[str]:
    """What of the configuration is not as it was when the folder's checkpoints were made; nothing where there are none."""
    kept = folder / "config.json"
    if not kept.exists() or not (Path(config.trainer.default_local_dir) / "latest_checkpointed_iteration.txt").exists():
        return []
    before = {name: value for name, value in json.loads(kept.read_text()).items() if not _may_change(name)}
    lines = differing(before, _settings(config))
    if not lines:
        return []
    remedy = f"name another run by trainer.experiment_name, or delete {kept} if you mean it"
    return [f"{folder} has checkpoints made with other settings; {remedy}:\n" + "\n".join(f"    {line}" for line in lines)]


def keep(config: Any, folder: Path) -> None:
    """Write the configuration into the folder, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "config.json", json.dumps(_settings(config), indent=1, sort_keys=True) + "\n")


def _settings(config: Any) -> dict[str, Any]:
    tree: Any = OmegaConf.to_container(config, resolve=True)
    found = {name: value for name, value in leaves(tree).items() if not _may_change(name)}
    found[WORLD] = config.trainer.nnodes * config.trainer.n_gpus_per_node
    return json.loads(json.dumps(found, default=str))


def _may_change(name: str) -> bool:
    return (name.startswith(FREE) and not name.startswith(FIXED)) or MEMORY.search(name) is not None


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a tree of settings by their dotted names.

    Example:
        >>> leaves({"a": {"b": 1, "c": None}})
        {'a.b': 1, 'a.c': None}
    """
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
