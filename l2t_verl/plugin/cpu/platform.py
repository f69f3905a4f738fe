"""A CPU platform for verl: its own platform and engine registries, so that a machine without a GPU runs the real thing.

Registered only when `VERL_PLATFORM=cpu`: verl takes the first platform that reports itself available, and a GPU
cluster's head node without a GPU must not become one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psutil
import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

ENGINES = "verl.workers.engine.fsdp.transformer_impl"


class _CpuDevice(ModuleType):
    """`torch.cpu` with the part of `torch.cuda`'s interface that verl calls; memory is the process's own."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    @staticmethod
    def memory_allocated(device: Any = None) -> int:
        return psutil.Process().memory_info().rss

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    @staticmethod
    def mem_get_info(device: Any = None) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    @staticmethod
    def get_device_name(device: Any = None) -> str:
        return "cpu"

    @staticmethod
    def get_rng_state(device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    @staticmethod
    def manual_seed(seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    @staticmethod
    def _nothing(*args: Any, **kwargs: Any) -> None:
        return None

    empty_cache = ipc_collect = reset_peak_memory_stats = set_device = _nothing


_DEVICE = _CpuDevice("l2t_verl_cpu_device")

VLLM = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # where the environment does not say


class CpuPlatform(PlatformBase):
    """One process is one device; collectives go over gloo; Ray counts devices as (logical) GPUs."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _DEVICE

    def is_available(self) -> bool:
        """Whether this platform was asked for."""
        return os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"

    def current_device(self) -> str:
        """The device that tensors are moved to."""
        return "cpu"

    def device_count(self) -> int:
        """One device a process."""
        return 1

    def set_device(self, device_index: int) -> None:
        """There is one."""

    def synchronize(self, device_index: int | None = None) -> None:
        """Work on a CPU is synchronous."""

    def manual_seed(self, seed: int) -> None:
        """Seed torch."""
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        """Seed torch."""
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """There is no caching allocator."""

    def empty_cache(self) -> None:
        """There is no caching allocator."""

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        """CPUs have no compute capability."""
        return None, None

    def communication_backend_name(self) -> str:
        """Collectives over gloo."""
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """Verl reads this variable; on a CPU nobody sets it."""
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        """No ranges to mark."""
        yield

    def profiler_start(self) -> None:
        """No device profiler."""

    def profiler_stop(self) -> None:
        """No device profiler."""

    def ray_resource_name(self) -> str:
        """Ray's logical GPUs, so that verl's placement groups need no change."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        """Keep Ray from hiding devices."""
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """Weights go through shared memory."""
        return False

    def rollout_env_vars(self) -> dict[str, str]:
        """Bound vLLM's key-value cache, which takes half of the memory otherwise; bind none of its threads to a core.

        Bound, it leaves a core to itself, which is half of a machine with two, and all engines of a machine share one.
        """
        return {name: os.environ.get(name, value) for name, value in VLLM.items()}

    def cudart(self) -> None:
        """No CUDA runtime."""
        return None


def register_platform() -> None:
    """Make `cpu` known to verl's platform registry."""
    PlatformRegistry.register(platform="cpu")(CpuPlatform)


def register_engines(module: ModuleType) -> None:
    """Register verl's own FSDP engines, which are written device-agnostic, for the device `cpu`.

    Args:
        module: `verl.workers.engine.fsdp.transformer_impl`.
    """
    from verl.workers.engine.base import EngineRegistry

    for model_type, backends in list(EngineRegistry._engines.items()):
        for backend in ("fsdp", "fsdp2"):
            engines = backends.get(backend, {})
            if "cuda" in engines and "cpu" not in engines:
                EngineRegistry.register(model_type=model_type, backend=backend, device="cpu")(engines["cuda"])
