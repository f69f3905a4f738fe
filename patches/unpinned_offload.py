"""verl keeps the reference policy's weights in pinned host memory; without an accelerator torch refuses to pin.

Upstream: `FSDPEngine._build_fsdp_module` in `verl.workers.engine.fsdp.transformer_impl` builds
`CPUOffloadPolicy(pin_memory=True)` for every forward-only FSDP2 engine and offers no setting for it.
"""

from __future__ import annotations

from types import ModuleType

from l2t_verl.patches import PatchRefused, source_of

TARGET = "verl.workers.engine.fsdp.transformer_impl"


def apply(module: ModuleType) -> None:
    """Make the engine's module build its offload policy without pinned memory.

    Raises:
        PatchRefused: the engine builds the policy in another way than this patch knows.
    """
    policy = getattr(module, "CPUOffloadPolicy", None)
    if getattr(policy, "_l2t_unpinned", False):
        return
    source = source_of(module, "FSDPEngine._build_fsdp_module")
    if policy is None or source.count("offload_policy = CPUOffloadPolicy(pin_memory=True)") != 1:
        raise PatchRefused(f"patch unpinned_offload: {TARGET} no longer builds CPUOffloadPolicy(pin_memory=True)")

    def unpinned(pin_memory: bool = True) -> object:
        return policy(pin_memory=False)

    unpinned._l2t_unpinned = True  # type: ignore[attr-defined]
    module.CPUOffloadPolicy = unpinned  # type: ignore[attr-defined]
