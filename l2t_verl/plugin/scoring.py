"""How a worker scores: rows become prefixes with forced answers, an engine gives log-probs, and those become J again.

Two ways through an engine. `expanded` sends plain sequences through verl's `infer_batch`, which every engine serves with
its sharding, offload, attention and kernels. `packed` shares prefixes through the model's cache, on FSDP engines.

All ranks make the same number of forwards, or collectives would deadlock. verl counts micro-batches over the data-parallel
group, provided that every rank has as many sequences as there are of them and the same bound on their tokens; so the ranks
agree on both first, and those with less add padding.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name
from verl.workers.engine_workers import TrainingWorker

from l2t_verl.config import GainConfig
from l2t_verl.gain import ForcingTemplate, answer_targets, best_of_answers, packed, reduce_log_probs
from l2t_verl.gain.packed import Branch, SharedPrefix

PADDING = SharedPrefix([0], [Branch(1, [], [0])])
# verl partitions a call's sequences in pure Python, in more than quadratic time; it also pads to the longest of a batch
SEQUENCES_PER_CALL = 128


class ScoringPlan:
    """What has to be scored for the rows of a batch.

    Attributes:
        prefixes: one for each accepted answer of each row that fits the model's context.
    """

    def __init__(self, config: GainConfig, tokenizer: Any, context_length: int | None):
        self.config, self.tokenizer, self.context_length = config, tokenizer, context_length
        self.template = ForcingTemplate.from_config(config)
        self.prefixes: list[SharedPrefix] = []
        self._rows: list[tuple[int, int]] = []  # for each row: accepted answers that fit, K+1

    def add_row(self, prompt: torch.Tensor, response: torch.Tensor, ends: list[int], answers: list[str]) -> None:
        """Add the K+1 forced answers of each accepted answer, as far as they fit the model's context."""
        scored = 0
        for answer in answers if ends else []:
            targets = answer_targets(self.tokenizer, prompt, response, ends, answer, self.template)
            branches = [
                Branch(len(prompt) + end, list(target.suffix_ids), list(target.answer_ids))
                for end, target in zip([0, *ends], targets, strict=True)
            ]
            longest = max(branch.visible + branch.size for branch in branches)
            if self.context_length is None or longest <= self.context_length:
                self.prefixes.append(SharedPrefix([*prompt.tolist(), *response[: ends[-1]].tolist()], branches))
                scored += 1
        self._rows.append((scored, len(ends) + 1))

    def scores(self, log_probs: list[torch.Tensor]) -> torch.Tensor:
        """Nested J, [K+1] for each row; NaN where nothing was scored.

        Args:
            log_probs: [A] for each branch of each prefix, in order, in nats.
        """
        if log_probs:
            lengths = torch.tensor([len(values) for values in log_probs])
            padded = torch.nn.utils.rnn.pad_sequence([values.float().cpu() for values in log_probs], batch_first=True)
            values = reduce_log_probs(padded, lengths, kind=self.config.kind)
        rows, position = [], 0
        for scored, prefixes in self._rows:
            if scored:
                block = values[position : position + scored * prefixes].reshape(scored, prefixes)
                rows.append(best_of_answers(block))
                position += scored * prefixes
            else:
                rows.append(torch.full((prefixes,), float("nan")))
        return torch.nested.as_nested_tensor([row.float() for row in rows], layout=torch.jagged)


def why_not_packed(actor: TrainingWorker) -> str | None:
    """Why this engine cannot share prefixes; None if it can."""
    engine = actor.engine
    if actor.engine_config.strategy not in ("fsdp", "fsdp2"):
        return f"the {actor.engine_config.strategy} engine has its own forward"
    if getattr(engine, "use_ulysses_sp", False):
        return "Ulysses splits the sequence over ranks"
    if actor.engine_config.use_fused_kernels:
        return "the forward of the fused kernels returns no logits"
    return packed.why_not_packed(engine.module)


def packed_log_probs(actor: TrainingWorker, prefixes: list[SharedPrefix], max_tokens: int) -> list[torch.Tensor]:
    """Log-probs of all branches' answers by sharing prefixes, two forwards a micro-batch."""
    parts = [part for prefix in prefixes for part in prefix.split(max_tokens)]
    batches = packed.micro_batches(parts, max_tokens)
    (count,) = _largest(actor, len(batches))
    found: list[list[torch.Tensor]] = [[]] * len(parts)
    engine = actor.engine
    dtype = getattr(engine, "_autocast_dtype", torch.bfloat16)  # as the engine's own forward
    computing = nullcontext() if dtype == torch.float32 else torch.autocast(get_device_name(), dtype)
    with engine.eval_mode(), computing:
        for batch in [*batches, *[[]] * (count - len(batches))]:
            values = packed.shared_prefix_log_probs(engine.module, [parts[i] for i in batch] or [PADDING])
            for i, row in zip(batch, values, strict=False):
                found[i] = row
    return [values for row in found for values in row]


def expanded_log_probs(actor: TrainingWorker, prefixes: list[SharedPrefix], max_tokens: int) -> list[torch.Tensor] | None:
    """Log-probs of all branches' answers by one plain sequence each; None on ranks that hold no output."""
    branches = [(prefix.context, branch) for prefix in prefixes for branch in prefix.branches]
    sequences = [[*context[: branch.visible], *branch.suffix, *branch.answer] for context, branch in branches]
    log_probs = sequence_log_probs(actor, sequences, max_tokens)
    if log_probs is None:
        return None
    return [values[-len(branch.answer) :] for values, (_, branch) in zip(log_probs, branches, strict=True)]


def sequence_log_probs(actor: TrainingWorker, sequences: list[list[int]], max_tokens: int = 0) -> list[torch.Tensor] | None:
    """Log-probs of the tokens 1 … of each sequence (the first has no context), at temperature 1, by the policy itself."""
    most, budget = _largest(actor, max(len(sequences), 1), max(max_tokens, 2, *map(len, sequences)))
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))  # neighbours in length together
    found: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
    for start in range(0, most, SEQUENCES_PER_CALL):
        chosen = order[start : start + SEQUENCES_PER_CALL]
        count = min(SEQUENCES_PER_CALL, most - start)  # on the rank that has the most
        padding = [torch.zeros(2, dtype=torch.int64)] * (count - len(chosen))
        output = actor.infer_batch(_as_batch([*(torch.tensor(sequences[i]) for i in chosen), *padding], budget))
        if output is None:
            return None
        for i, row in zip(chosen, output["log_probs"].unbind(), strict=False):
            found[i] = row[:-1].cpu()  # verl's entry at position t is that of token t + 1
    return found


def _as_batch(rows: list[torch.Tensor], max_tokens: int) -> TensorDict:
    """Sequences as verl's engines take them, with the settings of a plain forward of the policy itself."""
    nested = {
        "input_ids": rows,
        "position_ids": [torch.arange(len(ids)) for ids in rows],
        "loss_mask": [torch.ones(len(ids), dtype=torch.int64) for ids in rows],
    }
    tensors = {name: torch.nested.as_nested_tensor(column, layout=torch.jagged) for name, column in nested.items()}
    settings = {
        "temperature": 1.0,
        "calculate_entropy": False,
        "compute_loss": False,
        "no_lora_adapter": False,  # a reference pass before may have left the adapter off
        "use_dynamic_bsz": True,
        "max_token_len_per_gpu": max_tokens,
        "global_token_num": [len(ids) for ids in rows],
    }
    return tu.get_tensordict(tensor_dict=tensors, non_tensor_dict=settings)


def _largest(actor: TrainingWorker, *numbers: int) -> list[int]:
    """The largest of each number over the data-parallel group."""
    values = torch.tensor(numbers, device=get_device_name())
    group = actor.engine.get_data_parallel_group()
    if group is not None:
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX, group=group)
    return values.tolist()
