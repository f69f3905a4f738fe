"""The forward over packed rows: the model's own body, our attention, and log-probs in the place of logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

from l2t_verl.packing.attention import Layout, branch_groups, packed_attention
from l2t_verl.packing.head import in_float32, token_log_probs
from l2t_verl.packing.rows import PackedRow

# What models do to their logits or their attention's scores beside the head and the softmax, and the value that does nothing
NEUTRAL = {
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "lm_head_multiplier": 1.0,
}


@dataclass(frozen=True)
class PackedLogProbs:
    """What a forward found for its rows.

    Attributes:
        answers: for each row and each of its branches [A] log-probs of the answer's tokens, in nats.
        tokens: for each row [N − first] log-probs of its context's tokens from `first` on, in nats; empty without one.
        entropies: for each row the entropies of the same positions, in nats; None if not asked for.
    """

    answers: list[list[torch.Tensor]]
    tokens: list[torch.Tensor]
    entropies: list[torch.Tensor] | None


def why_not_packed(model: torch.nn.Module) -> str | None:
    """Say why forced answers cannot share a forward with the response in this model.

    Args:
        model: a causal language model, wrapped by FSDP or PEFT or not.

    Returns:
        The reason; None if they can.

    Example:
        >>> why_not_packed(torch.nn.Linear(2, 2))
        "the model has no configuration in Hugging Face's interface"
    """
    if not hasattr(model, "config"):
        return "the model has no configuration in Hugging Face's interface"
    config, inner = _text_config(model), _inner(model)
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    if kinds:
        return f"the model has layers of kind {', '.join(kinds)}"
    if getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True):
        return f"the model attends within a window of {config.sliding_window} tokens"
    if not getattr(inner, "_supports_attention_backend", False):
        return "the model's attention cannot be exchanged"
    changed = [name for name, value in NEUTRAL.items() if getattr(config, name, value) not in (None, value)]
    if changed:
        return f"the model's log-probs depend on {', '.join(changed)}"
    if not hasattr(inner, "get_decoder") or inner.get_decoder() is inner or inner.get_output_embeddings() is None:
        return "the model has no body and output head of the usual names"
    if isinstance(inner.get_output_embeddings(), FullyShardedDataParallel):
        return "FSDP (version 1) shards the output head by itself"
    return None


def packed_forward(
    model: torch.nn.Module,
    rows: list[PackedRow],
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    device: torch.device | str | None = None,
) -> PackedLogProbs:
    """Log-probs of the rows' forced answers, and of the rows' own tokens where asked for, in exactly one forward.

    The answers' logits are computed in float32, whatever the model's precision is. Those of the rows' own tokens are the
    model's own, as in verl's update.

    Args:
        model: a causal language model in Hugging Face's interface for which `why_not_packed` is None; wrapped by FSDP or
            PEFT or not.
        rows: the responses, at least one.
        temperature: of the rows' own tokens; answers are always scored at 1.
        entropy: also the entropies of the rows' own tokens.
        device: where the model computes; None: where its parameters are.

    Returns:
        The log-probs, float32; on the CPU unless gradients are recorded.

    Raises:
        NotImplementedError: the model does not compute its attention by transformers' interface.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from l2t_verl.packing import Branch
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16,
        ...                                      num_hidden_layers=1, num_attention_heads=2))
        >>> row = PackedRow([1, 2, 3, 4], [Branch(2, [5], [6, 7]), Branch(4, [5], [6, 7])], first=2)
        >>> found = packed_forward(model, [row])
        >>> [len(values) for values in found.answers[0]], len(found.tokens[0])
        ([2, 2], 2)
    """
    packing = _Packing(rows, torch.device(device) if device is not None else next(model.parameters()).device)

    def read(hidden: torch.Tensor, head: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, ...]:
        precise = in_float32(head, _inner(model).get_output_embeddings())
        answers, _ = token_log_probs(precise, hidden[packing.answer_positions], packing.answer_targets)
        tokens, entropies = token_log_probs(
            head, hidden[packing.token_positions], packing.token_targets, temperature=temperature, entropy=entropy
        )
        return answers, tokens, tokens if entropies is None else entropies

    with packed_attention(_text_config(model), packing.layout), _ending_in(_inner(model), read):
        found = model(input_ids=packing.ids[None], position_ids=packing.positions[None])
    answers, tokens, entropies = found if torch.is_grad_enabled() else (values.cpu() for values in found)
    return PackedLogProbs(
        packing.by_branch(answers),
        list(tokens.split(packing.token_counts)),
        list(entropies.split(packing.token_counts)) if entropy else None,
    )


class _Packing:
    """Rows as one sequence: each context, then its branches in the order of what they see."""

    def __init__(self, rows: list[PackedRow], device: torch.device):
        ids: list[int] = []
        positions: list[int] = []
        self.layout = Layout()
        answer_positions: list[int] = []
        answer_targets: list[int] = []
        token_positions: list[int] = []
        token_targets: list[int] = []
        self.token_counts: list[int] = []
        self._orders: list[list[int]] = []  # for each row: which branch stands first, second …
        self._lengths: list[int] = []  # of the answers, in the order of the sequence
        for row in rows:
            start = len(ids)
            ids += row.context
            positions += range(len(row.context))
            self.layout.contexts.append(slice(start, len(ids)))
            wanted = range(row.first if row.first is not None else len(row.context), len(row.context))
            token_positions += [start + t - 1 for t in wanted]
            token_targets += row.context[wanted.start :]
            self.token_counts.append(len(wanted))
            order = sorted(range(len(row.branches)), key=lambda k: row.branches[k].visible)
            self._orders.append(order)
            branches = [row.branches[k] for k in order]
            if branches:
                # a branch reads the last token that it sees again, to predict an answer without a suffix too
                seen = [branch.visible - 1 for branch in branches]
                sizes = [branch.size for branch in branches]
                self.layout.groups += branch_groups(start, len(ids), seen, sizes, device)
            for branch in branches:
                first = len(ids) + len(branch.suffix)
                answer_positions += range(first, first + len(branch.answer))
                answer_targets += branch.answer
                self._lengths.append(len(branch.answer))
                positions += range(branch.visible - 1, branch.visible - 1 + branch.size)
                ids += [row.context[branch.visible - 1], *branch.suffix, *branch.answer[:-1]]
        tensor = partial(torch.tensor, dtype=torch.int64, device=device)
        self.ids, self.positions = tensor(ids), tensor(positions)
        self.answer_positions, self.answer_targets = tensor(answer_positions), tensor(answer_targets)
        self.token_positions, self.token_targets = tensor(token_positions), tensor(token_targets)

    def by_branch(self, answers: torch.Tensor) -> list[list[torch.Tensor]]:
        """The answers' log-probs by row and branch, in the rows' own order of branches."""
        in_sequence = iter(answers.split(self._lengths))
        found = []
        for order in self._orders:
            values = {k: next(in_sequence) for k in order}
            found.append([values[k] for k in range(len(order))])
        return found


@contextmanager
def _ending_in(inner: Any, read: Callable[..., tuple[torch.Tensor, ...]]) -> Iterator[None]:
    """Let the model's forward return what `read(hidden states, head)` does, instead of logits, inside the block.

    Inside its own forward, because that is where FSDP has gathered the weights of the head; and whatever else has been made
    of that forward (kernels that return no logits, for one) is left out.
    """
    body, head = inner.get_decoder(), inner.get_output_embeddings()
    own = inner.__dict__.get("forward")

    def forward(input_ids: torch.Tensor, position_ids: torch.Tensor, **_: Any) -> tuple[torch.Tensor, ...]:
        states = body(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
        with _gathered(head) as apply:
            return read(states[0], apply)

    inner.forward = forward
    try:
        yield
    finally:
        del inner.forward
        if own is not None:
            inner.forward = own


@contextmanager
def _gathered(head: torch.nn.Module) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """The head as a function that may be called any number of times.

    Where FSDP2 shards the head by itself (embeddings that are not tied), each call of the module is a collective, and ranks
    with different numbers of tokens would wait for each other for ever: its weights are gathered once instead.
    """
    if not isinstance(head, FSDPModule):
        yield head
        return
    head.unshard()
    try:
        yield head.forward
    finally:
        head.reshard()


def _inner(model: Any) -> Any:
    """The model below the wrappers of FSDP (version 1) and PEFT."""
    model = getattr(model, "_fsdp_wrapped_module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _text_config(model: Any) -> Any:
    return model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
