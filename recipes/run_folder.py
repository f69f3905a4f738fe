"""A run's folder keeps the configuration that it was started with: a checkpoint is gone on from with no other one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

FREE = ("trainer.", "ray_kwargs.")  # where and how long it runs, and what it writes: may change from start to start


def differences(config: Any, folder: Path) -> list[str]:
    """What of the configuration is not as it was when the folder's checkpoints were made; nothing where there are none."""
    kept = folder / "config.json"
    if not kept.exists() or not (Path(config.trainer.default_local_dir) / "latest_checkpointed_iteration.txt").exists():
        return []
    before, now = json.loads(kept.read_text()), _settings(config)
    names = [name for name in before | now if before.get(name) != now.get(name)]
    if not names:
        return []
    lines = [f"    {name}: {before.get(name)} there, {now.get(name)} now" for name in names]
    remedy = f"name another run by trainer.experiment_name, or delete {kept} if you mean it"
    return [f"{folder} has checkpoints made with other settings; {remedy}:\n" + "\n".join(lines)]


def keep(config: Any, folder: Path) -> None:
    """Write the configuration into the folder, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".config.partial"
    partial.write_text(json.dumps(_settings(config), indent=1, sort_keys=True) + "\n")
    os.replace(partial, folder / "config.json")


def _settings(config: Any) -> dict[str, Any]:
    leaves = _leaves(OmegaConf.to_container(config, resolve=True))
    return json.loads(json.dumps({name: value for name, value in leaves.items() if not name.startswith(FREE)}, default=str))


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
