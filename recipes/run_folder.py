"""A run's folder keeps the configuration that it was started with: a checkpoint is gone on from with no other one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from l2t_verl.evaluate.store import differing, write_whole

FREE = ("trainer.", "ray_kwargs.")  # where and how long it runs, and what it writes: may change from start to start


def differences(config: Any, folder: Path) -> list[str]:
    """What of the configuration is not as it was when the folder's checkpoints were made; nothing where there are none."""
    kept = folder / "config.json"
    if not kept.exists() or not (Path(config.trainer.default_local_dir) / "latest_checkpointed_iteration.txt").exists():
        return []
    lines = differing(json.loads(kept.read_text()), _settings(config))
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
    found = leaves(tree)
    return json.loads(json.dumps({name: value for name, value in found.items() if not name.startswith(FREE)}, default=str))


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
