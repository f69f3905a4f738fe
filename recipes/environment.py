"""What verl's processes need in their environment on a machine without a GPU."""

from __future__ import annotations

import os


def bare_machine() -> dict[str, str]:
    """The process's environment, with verl and vLLM told that the device is the CPU where there is no other."""
    import psutil
    import torch

    values = {"TOKENIZERS_PARALLELISM": "false", "RAY_USAGE_STATS_ENABLED": "0", "VLLM_NO_USAGE_STATS": "1"}
    fixed = {}
    if not torch.cuda.is_available():
        fixed |= {"VERL_PLATFORM": "cpu", "VLLM_TARGET_DEVICE": "cpu"}
        values |= {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": str(psutil.cpu_count(logical=False) or 1)}
    return values | dict(os.environ) | fixed
