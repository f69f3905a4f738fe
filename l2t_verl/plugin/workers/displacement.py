"""How far a worker's weights have moved from the start: Δθ = θ − θ_0 of its own shards, by a low-rank proxy per matrix.

The start is a copy that the worker keeps from before any checkpoint is loaded: a reference policy may be stored in another
type, whose rounding is larger than what training moves. With LoRA the adapter itself is the displacement: θ + εΔθ is its
second matrix times 1 + ε.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from verl.utils.device import get_device_name

from l2t_verl.compression import low_rank, shifted
from l2t_verl.config import CompressionConfig

FIRST_SHIFT = 1e-4  # ‖εΔθ̃‖ / ‖θ‖ of the first try
LORA = re.compile(r"\.lora_B\.(?P<adapter>\w+)\.weight$")


class Displacement:
    """Δθ̃ of one worker, decomposed anew every `refresh_steps` batches.

    Attributes:
        local: this rank's part of Δθ̃ by parameter, on the CPU.
        squared_norm: ‖Δθ̃‖² of the whole, the same on all ranks.
        relative_size: ‖Δθ̃‖ / ‖θ‖ of the displaced parameters.
        slope: root mean square derivative of a token's log-prob along Δθ̃ / ‖Δθ̃‖, as last measured; None before.
    """

    def __init__(self, module: torch.nn.Module, settings: CompressionConfig):
        """Keep the start; `module` is the engine's, sharded or not.

        Raises:
            ValueError: no parameter is displaced.
        """
        self.module, self.settings = module, settings
        reshard(module)
        parameters = dict(module.named_parameters())
        self.uses_lora = any(LORA.search(name) for name in parameters)
        pattern = LORA if self.uses_lora else re.compile(settings.parameters)
        self.names = [name for name in parameters if pattern.search(name)]
        if not self.names:
            raise ValueError(
                f"algorithm.l2t.compression.parameters={settings.parameters!r} matches none of the model's "
                f"{len(parameters)} parameters, such as {next(iter(parameters))}"
            )
        stacked = [name for name in self.names if parameters[name].ndim > 2]
        if stacked:
            raise ValueError(
                f"algorithm.l2t.compression.parameters={settings.parameters!r} matches {len(stacked)} parameters that are "
                f"no matrices (such as {stacked[0]}, shape {tuple(parameters[stacked[0]].shape)}); choose others"
            )
        self.start = {} if self.uses_lora else {name: local_part(parameters[name]).cpu().clone() for name in self.names}
        self.local: dict[str, torch.Tensor] = {}
        self.squared_norm = self.relative_size = 0.0
        self.slope: float | None = None
        self._calls = 0
        self._base_square: float | None = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Decompose the displacement anew where it is due; all ranks call it, with the parameters on the device."""
        due = self._calls % self.settings.refresh_steps == 0 or self.squared_norm == 0
        due = due or self.uses_lora  # an adapter needs no decomposition
        self._calls += 1
        if due:
            squares = self._read_adapter() if self.uses_lora else self._decompose()
            self.squared_norm = squares[0]
            self.relative_size = math.sqrt(squares[0] / squares[1]) if squares[1] > 0 else 0.0

    @property
    def norm(self) -> float:
        """‖Δθ̃‖."""
        return math.sqrt(self.squared_norm)

    def epsilon_for(self, change: float) -> float:
        """The multiple of Δθ̃ that should change log-probs by so much; at first a guess, small beside the weights."""
        if not self.slope:
            return FIRST_SHIFT / self.relative_size
        return change / (self.slope * self.norm)

    @contextmanager
    def shifted(self, scale: float) -> Iterator[None]:
        """θ + scale · Δθ̃ inside the block, θ bit for bit afterwards."""
        with shifted({name: local_part(p) for name, p in self._parameters()}, self.local, scale):
            reshard(self.module)
            try:
                yield
            finally:
                reshard(self.module)

    def product_with_gradients(self) -> float:
        """⟨Δθ̃, ∇⟩ of this rank's parts, with the gradients as they stand."""
        reshard(self.module)
        product = 0.0
        for name, parameter in self.module.named_parameters():
            if name in self.local and parameter.grad is not None:
                gradient = local_part(parameter.grad)
                product += (gradient.double() * self.local[name].to(gradient.device).double()).sum().item()
        return product

    def _parameters(self) -> list[tuple[str, torch.Tensor]]:
        reshard(self.module)  # else some may be the gathered ones, whose memory goes with the next resharding
        chosen = set(self.names)
        return [(name, p.detach()) for name, p in self.module.named_parameters() if name in chosen]

    def _decompose(self) -> tuple[float, float]:
        """Δθ̃ by matrices; ‖Δθ̃‖² and ‖θ‖².

        Gathered, decomposed and handed out one after another: in one loop, every rank would wait for each decomposition.
        """
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        rank = torch.distributed.get_rank() if world > 1 else 0
        parameters, mine = self._parameters(), {}
        squares = torch.zeros(2, dtype=torch.float64)
        for index, (name, parameter) in enumerate(parameters):
            now = _whole(parameter)
            delta = now - _whole(_like(parameter, self.start[name]))
            squares[1] += now.double().square().sum().cpu()
            if index % world == rank:
                mine[name] = delta.cpu()
        for name, delta in mine.items():
            mine[name] = low_rank(delta.to(get_device_name()), self.settings.rank_fraction).cpu()
        for index, (name, parameter) in enumerate(parameters):
            if index % world == rank:
                delta = mine.pop(name).to(get_device_name())
            else:
                delta = torch.empty(parameter.shape, dtype=parameter.dtype, device=get_device_name())
            if world > 1:
                delta = delta.contiguous()
                torch.distributed.broadcast(delta, src=index % world)
            squares[0] += delta.double().square().sum().cpu()
            self.local[name] = local_part(_shard_like(parameter, delta)).cpu()
        return tuple(squares.tolist())

    def _read_adapter(self) -> tuple[float, float]:
        """Δθ = s B A as the adapter stands, of which B is displaced; ‖s B A‖² and the square of the base weights' norm."""
        modules, displaced, base = dict(self.module.named_modules()), 0.0, 0.0
        for name, parameter in self._parameters():
            match = LORA.search(name)
            assert match is not None  # the names were chosen by it
            layer, adapter = modules[name[: match.start()]], match["adapter"]
            first, second = _whole(layer.lora_A[adapter].weight.detach()).double(), _whole(parameter).double()
            product = (second.mT @ second) * (first @ first.mT)  # ‖BA‖² without the product itself
            displaced += layer.scaling[adapter] ** 2 * product.sum().item()
            if self._base_square is None:
                base += _whole(layer.get_base_layer().weight.detach()).double().square().sum().item()
            self.local[name] = local_part(parameter).cpu().clone()
        if self._base_square is None:  # frozen weights are read once
            self._base_square = base
        return displaced, self._base_square


def reshard(module: torch.nn.Module) -> None:
    """Let go of the parameters that FSDP2 keeps gathered after a forward: the next one gathers them as they then are."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def local_part(tensor: Any) -> torch.Tensor:
    """This rank's part."""
    detached = tensor.detach()
    return detached.to_local() if isinstance(detached, DTensor) else detached


def _whole(tensor: Any) -> torch.Tensor:
    """All of it, where the engine computes: parameters that FSDP2 offloads are shards on the CPU."""
    moved = tensor.to(get_device_name())
    return moved.full_tensor() if isinstance(moved, DTensor) else moved


def _like(parameter: Any, local: torch.Tensor) -> Any:
    """This rank's part of something that is sharded as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return local
    return DTensor.from_local(
        local.to(parameter.to_local().device),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def _shard_like(parameter: Any, whole: torch.Tensor) -> Any:
    """A tensor that every rank has, sharded as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return whole
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
