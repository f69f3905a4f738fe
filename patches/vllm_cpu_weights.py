"""vLLM on CPUs repacks linear weights after loading; later weight updates then fail or, for the head, go unseen.

Upstream: `vllm.model_executor.layers.utils.dispatch_cpu_unquantized_gemm` copies each weight into a oneDNN, SGL or Zen
layout and drops the original. verl updates weights after every step, so each layer has to go on computing with the
parameter itself.
"""

from __future__ import annotations

import functools
import inspect
from types import ModuleType

import torch
from l2t_verl.patches import PatchRefused, source_of

SYMBOL = "dispatch_cpu_unquantized_gemm"


def apply(module: ModuleType) -> None:
    """Make every unquantised CPU layer call `torch.nn.functional.linear` on its live weight.

    Args:
        module: `vllm.model_executor.layers.utils`.

    Raises:
        PatchRefused: the dispatch is gone, takes other arguments, or its result is no longer used as written here.
    """
    dispatch = getattr(module, SYMBOL, None)
    if getattr(dispatch, "_l2t_live", False):
        return
    parameters = list(inspect.signature(dispatch).parameters) if callable(dispatch) else None
    gemm = source_of(module, "cpu_unquantized_gemm")
    known = parameters == ["layer", "remove_weight"] and "layer.cpu_linear(x, weight, bias)" in gemm
    if dispatch is None or not known:
        raise PatchRefused(
            f"patch vllm_cpu_weights: {module.__name__}.{SYMBOL} has changed (parameters {parameters}); weight updates "
            "would go unseen by the rollout. Install the versions in constraints-cpu.txt, or adapt the patch."
        )

    @functools.wraps(dispatch)
    def dispatch_live(layer: torch.nn.Module, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear  # type: ignore[assignment]

    dispatch_live._l2t_live = True  # type: ignore[attr-defined]
    setattr(module, SYMBOL, dispatch_live)
