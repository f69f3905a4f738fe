"""What verl's TaskRunner and workers must see: they run where and as whoever started Ray's nodes, not as the launcher.

With a Ray that runs already (`--launcher ray`, `RAY_ADDRESS`, Slurm) they have another folder, interpreter and environment
than the launcher's. So paths go to them absolute, and interpreter and variables by `ray_kwargs.ray_init.runtime_env`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

# What verl writes or reads by a path; a model or an adapter may be a name on the hub instead
WRITTEN = ("trainer.default_local_dir", "trainer.rollout_data_dir", "trainer.validation_data_dir")
READ = (
    "data.train_files",
    "data.val_files",
    "data.custom_cls.path",
    "trainer.resume_from_path",
    "actor_rollout_ref.model.path",
    "actor_rollout_ref.model.tokenizer_path",
    "actor_rollout_ref.model.hf_config_path",
    "actor_rollout_ref.model.lora_adapter_path",
    "reward.custom_reward_function.path",
)
# Variables of the launcher's that change what a worker does; no tokens or keys, for the command line is no place for them
PREFIXES = ("VERL_", "VLLM_", "NCCL_", "TOKENIZERS_", "OMP_", "RAY_USAGE_")
NAMES = ("HF_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT", "PYTHONPATH", "TENSORBOARD_DIR", "WANDB_DIR", "WANDB_MODE")
FILES = (".parquet", ".json", ".jsonl", ".py")
SECRET = ("_KEY", "_TOKEN", "SECRET", "PASSWORD")


def overrides(config: Any, variables: Mapping[str, str], *, root: Path, python: str, running_ray: bool) -> list[str]:
    """Hydra overrides, to stand behind all others.

    Args:
        config: verl's whole configuration as composed so far.
        variables: the launcher's environment.
        root: the folder that relative paths are meant from.
        python: the interpreter that has verl and this package, on every node.
        running_ray: whether a Ray that runs already is joined; it then has as many CPUs and GPUs as it has.

    Example:
        >>> node = OmegaConf.create({"trainer": {"default_local_dir": "runs/a"}})
        >>> overrides(node, {"VERL_X": "1", "HOME": "/"}, root=Path("/r"), python="/p", running_ray=False)[:2]
        ["trainer.default_local_dir='/r/runs/a'", "++ray_kwargs.ray_init.runtime_env.py_executable='/p'"]
    """
    found = []
    for name in (*WRITTEN, *READ):
        value = OmegaConf.select(config, name, default=None)
        absolute = _absolute(value, root, must_exist=name in READ)
        if absolute != value:
            found.append(f"{name}={_quoted(absolute)}")
    environment = {name: value for name, value in sorted(variables.items()) if _matters(name)}
    found.append(f"++ray_kwargs.ray_init.runtime_env.py_executable={_quoted(python)}")
    found.append(f"++ray_kwargs.ray_init.runtime_env.env_vars={_quoted(environment)}")
    if running_ray:  # Ray refuses to be told
        found += [f"++ray_kwargs.ray_init.{name}=null" for name in ("num_cpus", "num_gpus")]
    return found


def _matters(name: str) -> bool:
    return (name.startswith(PREFIXES) or name in NAMES) and not any(word in name for word in SECRET)


def _absolute(value: Any, root: Path, *, must_exist: bool) -> Any:
    """A path from `root`; what is none, or is not there and may be a name, as it is."""
    if OmegaConf.is_list(value):
        return [_absolute(item, root, must_exist=must_exist) for item in value]
    if not isinstance(value, str) or "://" in value or Path(value).is_absolute():
        return value
    path = root / value
    # data that is still to be built is a path, too
    return str(path) if path.exists() or not must_exist or path.suffix in FILES else value


def _quoted(value: Any) -> str:
    """As Hydra's grammar has it."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_quoted(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_quoted, value)) + "]"
    return "'" + str(value).replace("'", "\\'") + "'"
