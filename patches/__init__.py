"""Workarounds for upstream behaviour that has no hook, one small file each.

A patch names the upstream symbol that it changes, is applied only where it is needed (the CPU platform), and refuses
loudly when that symbol is not the one it was written for. The package is installed as `l2t_verl.patches`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any


class PatchRefused(RuntimeError):
    """The upstream code is not the one that the patch was written for."""


def on_cpu_platform() -> bool:
    """Whether verl was told to run on the CPU platform (`VERL_PLATFORM=cpu`)."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"


def source_of(module: ModuleType, path: str) -> str:
    """The source of the function at `name.name` in a module; empty where there is none."""
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    try:
        return inspect.getsource(found)
    except (OSError, TypeError):
        return ""


def apply_in_vllm() -> None:
    """Entry point of vLLM's plugin group: runs in each of vLLM's processes before a model is built."""
    if not on_cpu_platform():
        return
    import vllm.model_executor.layers.utils as layers

    from . import vllm_cpu_weights

    vllm_cpu_weights.apply(layers)


def hooks() -> dict[str, Callable[[ModuleType], None]]:
    """Patches by the module whose import they follow: `{module name: apply(module)}`."""
    if not on_cpu_platform():
        return {}
    from . import gloo_backend, unpinned_offload, vllm_distribution

    return {patch.TARGET: patch.apply for patch in (gloo_backend, unpinned_offload, vllm_distribution)}
