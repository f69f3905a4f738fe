"""How a worker computes derivatives along its weights' displacement, for the episodes of its rows."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.workers.engine_workers import TrainingWorker

from l2t_verl.compression import directional_derivatives, sum_by_episode
from l2t_verl.config import CompressionConfig
from l2t_verl.episodes import episode_ids
from l2t_verl.packing import PackedRow
from l2t_verl.plugin import fields
from l2t_verl.plugin.workers import collectives, scoring
from l2t_verl.plugin.workers.displacement import Displacement
from l2t_verl.plugin.workers.plan import first_own

logger = logging.getLogger(__name__)

TOLERATED = 1.5  # factor by which the change may miss its target
MOST_TRIES = 4


def derivatives(actor: TrainingWorker, displacement: Displacement, data: TensorDict) -> TensorDict:
    """See `L2TWorkerMixin.l2t_derivatives`.

    Raises:
        RuntimeError: some ranks hold no log-probs; on all of them, before the first call.
    """
    if getattr(actor.engine, "use_ulysses_sp", False):  # refused at the start: ranks without output agree on no shift
        raise RuntimeError("l2t: derivatives need log-probs on every rank, but Ulysses leaves some without")
    boundaries = [row[1:].tolist() for row in data[fields.BOUNDARIES].unbind()]
    rows = [
        PackedRow([*prompt.tolist(), *response.tolist()], first=len(prompt))
        for prompt, response in zip(data["prompts"].unbind(), data["responses"].unbind(), strict=True)
    ]
    mask = data["response_mask"].to_padded_tensor(padding=0)
    ids = torch.where(mask > 0, episode_ids(boundaries, mask.shape[1]), -1)
    width = max(map(len, boundaries))
    with actor.engine.eval_mode():
        displacement.refresh()
    if displacement.relative_size == 0:
        found = torch.zeros(len(rows), width, dtype=torch.float64)
    elif displacement.settings.estimator == "exact":
        found = _exact(actor, displacement, rows, ids, width, data)
    else:
        found = _directional(actor, displacement, rows, ids, width, data)
    first = torch.zeros(1, dtype=torch.float64)
    nested = [torch.cat([first, row[: len(ends)]]) for row, ends in zip(found, boundaries, strict=True)]
    return TensorDict(
        {
            fields.DERIVATIVES: torch.nested.as_nested_tensor(nested, layout=torch.jagged),
            fields.DISPLACEMENT_NORM: torch.full((len(rows),), displacement.squared_norm, dtype=torch.float64),
        },
        batch_size=len(rows),
    )


def _directional(
    actor: TrainingWorker,
    displacement: Displacement,
    rows: list[PackedRow],
    ids: torch.Tensor,
    width: int,
    data: TensorDict,
) -> torch.Tensor:
    """[B, K] by two passes over all rows."""
    temperature = tu.get_non_tensor_data(data, "temperature", default=1.0)
    packs = scoring.why_not_packed(actor) is None

    def log_probs() -> torch.Tensor:
        if packs:
            tokens = scoring.packed_pass(actor, rows, _max_tokens(data), temperature=temperature).tokens
        else:
            whole = collectives.sequence_log_probs(
                actor, [row.context for row in rows], _max_tokens(data), temperature=temperature
            )
            assert whole is not None  # refused above
            tokens = [values[first_own(row) - 1 :] for row, values in zip(rows, whole, strict=True)]
        padded = torch.zeros(ids.shape)
        for row, values in zip(padded, tokens, strict=True):
            row[: len(values)] = values
        return padded

    wanted = _wanted_change(displacement.settings, scoring.compute_dtype(actor.engine))
    epsilon = displacement.epsilon_for(wanted)
    with actor.engine.eval_mode():  # the parameters stay where they are shifted
        for _ in range(MOST_TRIES):
            of_tokens = torch.where(ids >= 0, directional_derivatives(log_probs, displacement.shifted, epsilon), 0.0)
            finite = (ids >= 0) & torch.isfinite(of_tokens)  # a broken row is the trainer's to leave out
            squares, count = collectives.summed(actor, of_tokens[finite].square().sum().item(), finite.sum().item())
            if squares == 0:
                break
            displacement.slope = math.sqrt(squares / count) / displacement.norm
            used, epsilon = epsilon, displacement.epsilon_for(wanted)
            if 1 / TOLERATED <= epsilon / used <= TOLERATED:
                break
        if count and squares == 0:
            logger.warning("l2t: shifting the weights along their displacement changed no log-prob; the penalty is 0")
    return sum_by_episode(of_tokens, ids, width)


def _wanted_change(settings: CompressionConfig, dtype: torch.dtype) -> float:
    """How much a token's log-prob should change, in nats, root mean square.

    Less, and rounding outweighs it; more, and it is no derivative any more. How far the weights have to be shifted for it
    differs by orders of magnitude between a random direction and the one that training went.
    """
    if settings.shift is not None:
        return settings.shift
    return 1e-3 if dtype == torch.float32 else 5e-2


def _exact(
    actor: TrainingWorker,
    displacement: Displacement,
    rows: list[PackedRow],
    ids: torch.Tensor,
    width: int,
    data: TensorDict,
) -> torch.Tensor:
    """[B, K] by one backward pass of the engine for each episode; one rank only, for FSDP averages gradients over ranks."""
    engine, found = actor.engine, torch.zeros(len(rows), width, dtype=torch.float64)
    temperature = tu.get_non_tensor_data(data, "temperature", default=1.0)
    settings = scoring.engine_settings(actor) | {"temperature": temperature}
    with engine.train_mode():  # leaves with the gradients cleared
        for i, row in enumerate(rows):
            for k in range(int(ids[i].max()) + 1):
                # verl's entry is that of the next token
                positions = (ids[i] == k).nonzero().flatten() + first_own(row) - 1

                def log_prob(model_output: dict, positions: torch.Tensor = positions, **_: Any) -> tuple[torch.Tensor, dict]:
                    return model_output["log_probs"].values()[positions].sum(), {}

                if len(positions):
                    engine.optimizer_zero_grad()
                    batch = collectives.as_batch([torch.tensor(row.context)], _max_tokens(data), settings)
                    engine.forward_backward_batch(batch, loss_function=log_prob, forward_only=False)
                    found[i, k] = displacement.product_with_gradients()
    return found


def _max_tokens(data: TensorDict) -> int:
    return tu.get_non_tensor_data(data, "l2t_max_tokens", default=16384)
