"""How an engine gives the log-probs of forced answers, whose rows `l2t_verl.plugin.workers.plan` makes.

Two ways through an engine. `packed` reads each response once, with its answers branching off it, on FSDP engines; the same
forward gives the response's own log-probs where they are wanted. `expanded` sends plain sequences through verl's
`infer_batch`, which every engine serves with its sharding, offload, attention and kernels.

All ranks make the same number of forwards, or they would wait for each other for ever: see
`l2t_verl.plugin.workers.collectives`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from verl.utils.device import get_device_name
from verl.workers.engine_workers import TrainingWorker

from l2t_verl import packing
from l2t_verl.packing import Branch, PackedRow, packed_forward
from l2t_verl.plugin.workers import collectives

PADDING = PackedRow([0], [Branch(1, [], [0])])
# What both ways are tried on before `packed` is used: prefixes of several lengths
PROBE = PackedRow(list(range(1, 13)), [Branch(3, [5], [7, 2]), Branch(12, [], [9]), Branch(7, [4, 4], [3, 1])])
# Largest difference in nats that rounding may make between them; another distribution over tokens is off by far more
PROBE_TOLERANCE = {torch.float32: 1e-3}
PROBE_TOLERANCE_HALF = 0.5


def why_not_packed(actor: TrainingWorker) -> str | None:
    """Why this engine's rows cannot be packed; None if they can. Every rank has to ask, and gets the same answer.

    Found out once: the trainer asks at the start and says what it is told.
    """
    if not hasattr(actor, "l2t_why_not_packed"):
        actor.l2t_why_not_packed = _why_not_packed(actor)
    return actor.l2t_why_not_packed


def _why_not_packed(actor: TrainingWorker) -> str | None:
    engine = actor.engine
    if actor.engine_config.strategy not in ("fsdp", "fsdp2"):
        return f"the {actor.engine_config.strategy} engine has its own forward"
    if getattr(engine, "use_ulysses_sp", False):
        return "Ulysses splits the sequence over ranks"
    reason = packing.why_not_packed(engine.module)
    if reason is not None:
        return reason
    plain = expanded_log_probs(actor, [PROBE], 0)
    assert plain is not None  # without Ulysses, FSDP's ranks all hold output
    try:
        packed = packed_pass(actor, [PROBE], PROBE.size).answers
    except NotImplementedError as error:  # the same on all ranks, after the same forward
        return str(error)
    gaps = torch.cat([a - b for a, b in zip(plain[0], packed[0], strict=True)]).abs().nan_to_num(nan=torch.inf)
    (difference,) = collectives.largest(actor, gaps.max().item())
    tolerance = PROBE_TOLERANCE.get(compute_dtype(engine), PROBE_TOLERANCE_HALF)
    if difference > tolerance:
        return f"on a probe its log-probs differ from the engine's own by {difference:.3g} nats (allowed {tolerance})"
    return None


@dataclass(frozen=True)
class PackedPass:
    """What the forwards over all rows found; see `l2t_verl.packing.PackedLogProbs`."""

    answers: list[list[torch.Tensor]]
    tokens: list[torch.Tensor]
    entropies: list[torch.Tensor]


def packed_pass(
    actor: TrainingWorker,
    rows: list[PackedRow],
    max_tokens: int,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
) -> PackedPass:
    """Forwards over packed rows by the policy itself, long rows first, within a budget of tokens.

    Args:
        actor: the worker of an engine for which `why_not_packed` is None.
        rows: may be empty on some ranks.
        max_tokens: most tokens in one forward, unless a single row is longer without its branches.
        temperature: of the rows' own tokens.
        entropy: also the entropies of the rows' own tokens.
    """
    parts = [
        (i, part) for i, row in enumerate(rows) if row.branches or row.first is not None for part in row.split(max_tokens)
    ]
    batches = packing.micro_batches([part for _, part in parts], max_tokens)
    (count,) = collectives.largest(actor, len(batches))
    answers: list[list[torch.Tensor]] = [[] for _ in parts]
    tokens = [torch.empty(0)] * len(rows)
    entropies = list(tokens)
    engine = actor.engine
    mode = nullcontext() if engine.mode == "eval" else engine.eval_mode()
    with torch.no_grad(), mode, computing(engine):
        for batch in [*batches, *[[]] * (count - len(batches))]:
            chosen = [parts[i][1] for i in batch] or [PADDING]
            found = packed_forward(engine.module, chosen, temperature=temperature, entropy=entropy, device=get_device_name())
            for position, i in enumerate(batch):
                row, part = parts[i]
                answers[i] = found.answers[position]
                if part.first is not None:
                    tokens[row] = found.tokens[position]
                    if found.entropies is not None:
                        entropies[row] = found.entropies[position]
    by_row: list[list[torch.Tensor]] = [[] for _ in rows]
    for (row, _), values in zip(parts, answers, strict=True):
        by_row[row] += values
    return PackedPass(by_row, tokens, entropies)


def compute_dtype(engine: Any) -> torch.dtype:
    """What an FSDP engine's own forward computes in."""
    return getattr(engine, "_autocast_dtype", torch.bfloat16)


def computing(engine: Any) -> AbstractContextManager:
    """The precision of an FSDP engine's own forward."""
    dtype = compute_dtype(engine)
    return nullcontext() if dtype == torch.float32 else torch.autocast(get_device_name(), dtype)


def expanded_log_probs(actor: TrainingWorker, rows: list[PackedRow], max_tokens: int) -> list[list[torch.Tensor]] | None:
    """Log-probs of all branches' answers by one plain sequence each; None on ranks that hold no output."""
    branches = [(row.context, branch) for row in rows for branch in row.branches]
    sequences = [[*context[: branch.visible], *branch.suffix, *branch.answer] for context, branch in branches]
    log_probs = collectives.sequence_log_probs(actor, sequences, max_tokens)
    if log_probs is None:
        return None
    answers = iter(values[-len(branch.answer) :] for values, (_, branch) in zip(log_probs, branches, strict=True))
    return [[next(answers) for _ in row.branches] for row in rows]


def engine_settings(actor: TrainingWorker) -> dict[str, Any]:
    """What verl's own calls tell an engine of a batch that gradients are computed for."""
    config = actor.engine.engine_config
    return {
        "use_remove_padding": actor.model_config.get("use_remove_padding", False),
        "use_dynamic_bsz": config.use_dynamic_bsz,
        "max_token_len_per_gpu": config.max_token_len_per_gpu,
        "micro_batch_size_per_gpu": config.micro_batch_size_per_gpu,
        "use_fused_kernels": config.use_fused_kernels,
    }
