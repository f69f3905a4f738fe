"""verl asks for the process-group backend `cpu:gloo,<device>:<backend>`, which names `cpu` twice on the CPU platform.

Upstream: `verl.utils.distributed` builds the string in two places and offers no hook; torch refuses a device that is
named twice. One backend for one device, `cpu:gloo`, is what both mean.
"""

from __future__ import annotations

from types import ModuleType

from l2t_verl.patches import PatchRefused

TARGET = "verl.utils.distributed"
DOUBLED = "cpu:gloo,cpu:gloo"


def apply(module: ModuleType) -> None:
    """Replace the doubled backend string on its way from `verl.utils.distributed` to torch."""
    import torch.distributed as dist

    if f"cpu:gloo,{module.get_device_name()}:{module.get_nccl_backend()}" != DOUBLED:
        raise PatchRefused(f"patch gloo_backend: {TARGET} no longer composes {DOUBLED!r} on the CPU platform")
    init_process_group = dist.init_process_group
    if getattr(init_process_group, "_l2t_gloo", False):
        return

    def init(backend: str | None = None, *args: object, **kwargs: object) -> object:
        return init_process_group("cpu:gloo" if backend == DOUBLED else backend, *args, **kwargs)

    init._l2t_gloo = True
    # verl calls torch.distributed.init_process_group by its full name, so the name itself has to change.
    dist.init_process_group = init
