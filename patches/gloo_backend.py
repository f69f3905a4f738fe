"""verl asks for the process-group backend `cpu:gloo,<device>:<backend>`, which names `cpu` twice on the CPU platform.

Upstream: `verl.utils.distributed` builds the string in two places and offers no hook; torch refuses a device that is
named twice. One backend for one device, `cpu:gloo`, is what both mean.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from l2t_verl.patches import PatchRefused, source_of

TARGET = "verl.utils.distributed"
DOUBLED = "cpu:gloo,cpu:gloo"
COMPOSED = 'f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"'


def apply(module: ModuleType) -> None:
    """Replace the doubled backend string on its way from `verl.utils.distributed` to torch.

    Raises:
        PatchRefused: verl composes the string in another way, or of other parts.
    """
    import torch.distributed as dist

    init_process_group = dist.init_process_group
    if getattr(init_process_group, "_l2t_gloo", False):
        return
    composed = COMPOSED in source_of(module, "initialize_global_process_group_ray")
    if not composed or (module.get_device_name(), module.get_nccl_backend()) != ("cpu", "gloo"):
        raise PatchRefused(f"patch gloo_backend: {TARGET} no longer composes {DOUBLED!r} on the CPU platform")

    @functools.wraps(init_process_group)
    def init(backend: str | None = None, *args: Any, **kwargs: Any) -> Any:
        return init_process_group("cpu:gloo" if backend == DOUBLED else backend, *args, **kwargs)

    init._l2t_gloo = True  # type: ignore[attr-defined]
    # verl calls torch.distributed.init_process_group by its full name, so the name itself has to change.
    dist.init_process_group = init
