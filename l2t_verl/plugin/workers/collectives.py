"""What ranks do together. The contract: **every rank makes every call**, with output or without, or the others wait on.

Under Ulysses, tensor and pipeline parallelism some ranks hold no output: verl's `infer_batch` gives them None. They have the
rows of the rank that does, and so the same number of calls to make. Ranks of one data-parallel group have different rows:
verl counts micro-batches over that group, provided that every rank has as many sequences and the same bound on their tokens;
so the ranks agree on both first, and those with less add padding.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name
from verl.workers.engine_workers import TrainingWorker

# verl partitions a call's sequences in pure Python, in more than quadratic time; it also pads to the longest of a batch
SEQUENCES_PER_CALL = 128


def sequence_log_probs(
    actor: TrainingWorker, sequences: list[list[int]], max_tokens: int = 0, *, temperature: float = 1.0
) -> list[torch.Tensor] | None:
    """Log-probs of all tokens of each sequence but the first, which has no context, by the policy itself.

    Every rank has to call it.

    Args:
        actor: a worker of verl's, with any engine.
        sequences: token ids; may be empty on some ranks.
        max_tokens: most tokens in one forward, unless a single sequence is longer.
        temperature: of the softmax.

    Returns:
        [len − 1] for each sequence, in nats; None on ranks that hold no output, after all calls.
    """
    most, budget = largest(actor, max(len(sequences), 1), max(max_tokens, 2, *map(len, sequences)))
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))  # neighbours in length together
    found: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
    mode = getattr(actor.engine, "mode", None)
    for start in range(0, most, SEQUENCES_PER_CALL):
        chosen = order[start : start + SEQUENCES_PER_CALL]
        count = min(SEQUENCES_PER_CALL, most - start)  # on the rank that has the most
        padding = [torch.zeros(2, dtype=torch.int64)] * (count - len(chosen))
        rows = [*(torch.tensor(sequences[i]) for i in chosen), *padding]
        settings = {"temperature": temperature, "disable_auto_offload": mode == "eval"}
        output = actor.infer_batch(as_batch(rows, budget, settings))
        actor.engine.mode = mode  # which verl's call leaves at none
        has_output = output is not None  # the same in every call
        for i, row in zip(chosen, output["log_probs"].unbind() if has_output else [], strict=False):
            found[i] = row[:-1].cpu()  # verl's entry at position t is that of token t + 1
    return found if has_output else None


def as_batch(rows: list[torch.Tensor], max_tokens: int, settings: dict[str, Any]) -> TensorDict:
    """Make a batch of sequences for verl's engines, with the settings of a plain forward of the policy itself."""
    nested = {
        "input_ids": rows,
        "position_ids": [torch.arange(len(ids)) for ids in rows],
        "loss_mask": [torch.ones(len(ids), dtype=torch.int64) for ids in rows],
    }
    tensors = {name: torch.nested.as_nested_tensor(column, layout=torch.jagged) for name, column in nested.items()}
    settings = {
        **settings,
        "calculate_entropy": False,
        "compute_loss": False,
        "no_lora_adapter": False,  # a reference pass before may have left the adapter off
        "use_dynamic_bsz": True,
        "max_token_len_per_gpu": max_tokens,
        "global_token_num": [len(ids) for ids in rows],
    }
    return tu.get_tensordict(tensor_dict=tensors, non_tensor_dict=settings)


def largest(actor: TrainingWorker, *numbers: float) -> list[Any]:
    """The maximum of each number over the data-parallel group; every rank has to call it."""
    return _reduced(actor, torch.tensor(numbers), torch.distributed.ReduceOp.MAX)


def summed(actor: TrainingWorker, *numbers: float) -> list[float]:
    """The sum of each number over the data-parallel group; every rank has to call it."""
    return _reduced(actor, torch.tensor(numbers, dtype=torch.float64), torch.distributed.ReduceOp.SUM)


def _reduced(actor: TrainingWorker, values: torch.Tensor, operation: torch.distributed.ReduceOp.RedOpType) -> list:
    values, group = values.to(get_device_name()), actor.engine.get_data_parallel_group()
    if group is not None:
        torch.distributed.all_reduce(values, op=operation, group=group)
    return values.tolist()
