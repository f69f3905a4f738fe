"""Which model is evaluated: a hub name, a folder, or a checkpoint of verl's, whose shards are merged."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

WEIGHTS = ("*.safetensors", "*.bin")


class ModelError(ValueError):
    """A model that cannot be evaluated, with the remedy."""


def resolved(model: str, cache: Path) -> str:
    """The path or hub name that engines load.

    A folder with `global_step_N` in it, such a folder, or its `actor` are verl's; the step counts that
    `latest_checkpointed_iteration.txt` names, else the newest. Its FSDP shards are merged once, by verl's own merger, into
    `cache`.

    Args:
        model: as the user names it.
        cache: folder for merged weights.

    Raises:
        ModelError: the folder holds no model or half of one, or the merger fails.
    """
    folder = Path(model)
    if not folder.exists():
        if model.startswith((".", "/", "~")) or model.count("/") > 1:  # the hub's names are ORGANISATION/NAME
            raise ModelError(f"{model} is not there")
        return model
    if _has_weights(folder):
        return str(folder.resolve())
    shards = _shards(folder)
    if shards is None:
        raise ModelError(
            f"{model} holds neither weights ({', '.join(WEIGHTS)}) nor a checkpoint of verl's (global_step_N/actor)"
        )
    merged = cache / f"{shards.parent.name}-{fingerprint(str(shards))[:12]}"
    if not _has_weights(merged):
        _merge(shards, merged)
    return str(merged.resolve())


def fingerprint(model: str) -> str:
    """Hash a model so that it is recognised again.

    The hash of a folder is made of its files' names, sizes, and first and last MiB. A model on the hub is known by its name.

    Args:
        model: a folder, or a name on the hub.
    """
    folder = Path(model)
    if not folder.is_dir():
        return model
    found = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        size = file.stat().st_size
        found.update(f"{file.relative_to(folder)} {size}\n".encode())
        with open(file, "rb") as content:
            found.update(content.read(1 << 20))
            content.seek(max(0, size - (1 << 20)))
            found.update(content.read())
    return found.hexdigest()


def _has_weights(folder: Path) -> bool:
    return (folder / "config.json").exists() and any(any(folder.glob(pattern)) for pattern in WEIGHTS)


def _shards(folder: Path) -> Path | None:
    for candidate in (*_newest(folder), folder / "actor", folder):
        for shard in candidate.glob("model_world_size_*_rank_*.pt"):
            size = int(shard.name.split("_")[3])
            missing = [i for i in range(size) if not (candidate / f"model_world_size_{size}_rank_{i}.pt").exists()]
            if missing:
                raise ModelError(
                    f"{candidate} is not whole: of {size} shards those of ranks {missing} are missing; name an older step"
                )
            return candidate
    return None


def _newest(folder: Path) -> list[Path]:
    """The step that verl marked when it was whole; else the one of the highest number."""
    mark = folder / "latest_checkpointed_iteration.txt"
    if mark.exists():
        return [folder / f"global_step_{mark.read_text().strip()}" / "actor"]
    steps = [path for path in folder.glob("global_step_*") if path.name.rpartition("_")[2].isdecimal()]
    return [path / "actor" for path in sorted(steps, key=lambda path: int(path.name.rpartition("_")[2]))[-1:]]


def _merge(shards: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
    line += ["--local_dir", str(shards), "--target_dir", str(partial)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode or not _has_weights(partial):
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise ModelError(f"verl's merger could not merge {shards}: " + " ".join(last))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
