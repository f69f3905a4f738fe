"""The backend that shares prefixes: a response is read once, and its forced answers branch off the key-value cache.

The K+1 sequences of `expanded` agree up to their boundary, so they are read as one: a plain causal pass over prompt and
response that keeps keys and values, then a pass over all branches, in which a branch's token sees the prompt, the response
up to its own boundary, and its own branch. The mask is [branch tokens, everything], never [N, N], and the output head is
applied where an answer's token is predicted and nowhere else.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Branch:
    """A forced answer after a prefix.

    Attributes:
        visible: tokens of the context that it continues, at least 1.
        suffix: unscored tokens that force the answer.
        answer: scored tokens, at least one.
    """

    visible: int
    suffix: list[int]
    answer: list[int]

    @property
    def size(self) -> int:
        """Tokens that are read: one of the context again, the suffix, the answer but its last."""
        return len(self.suffix) + len(self.answer)


@dataclass(frozen=True)
class SharedPrefix:
    """One response: the tokens of prompt and response, and the branches that continue parts of them."""

    context: list[int]
    branches: list[Branch]

    @property
    def size(self) -> int:
        """Tokens that its two passes read."""
        return len(self.context) + sum(branch.size for branch in self.branches)

    def split(self, max_tokens: int) -> list[SharedPrefix]:
        """The same branches on several copies of the context where all at once are more than `max_tokens`."""
        parts: list[list[Branch]] = [[]]
        size = len(self.context)
        for branch in self.branches:
            if parts[-1] and size + branch.size > max_tokens:
                parts.append([])
                size = len(self.context)
            parts[-1].append(branch)
            size += branch.size
        return [SharedPrefix(self.context, part) for part in parts]


def packed_log_probs(
    model: torch.nn.Module,
    prompt: list[int],
    response: list[int],
    ends: list[int],
    suffixes: list[list[int]],
    answers: list[list[int]],
    max_tokens: int,
) -> list[torch.Tensor]:
    """Log-probs of each prefix's answer tokens, in nats; see `l2t_verl.gain.answer_scores`.

    Returns:
        K+1 tensors [A_k], float32 on the CPU.

    Raises:
        NotImplementedError: the model cannot share prefixes, with the reason; `expanded` can score it.
    """
    reason = why_not_packed(model)
    if reason is not None:
        raise NotImplementedError(f"backend='packed': {reason}; take 'expanded'")
    branches = [
        Branch(len(prompt) + end, suffix, answer) for end, suffix, answer in zip(ends, suffixes, answers, strict=True)
    ]
    rows = SharedPrefix(prompt + response[: ends[-1]], branches).split(max_tokens)
    return [values for row in rows for values in shared_prefix_log_probs(model, [row])[0]]


def why_not_packed(model: torch.nn.Module) -> str | None:
    """Why the prefixes of this model cannot be shared through its cache; None if they can."""
    config = _text_config(model)
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    if kinds:
        return f"the model has layers of kind {', '.join(kinds)}"
    if getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True):
        return f"the model attends within a window of {config.sliding_window} tokens"
    if not getattr(model, "_supports_sdpa", True):
        return "the model has no attention that takes a mask of its own"
    known = inspect.signature(_inner(model).forward).parameters
    missing = [name for name in ("past_key_values", "position_ids", "logits_to_keep") if name not in known]
    return f"the model's forward does not take {', '.join(missing)}" if missing else None


def micro_batches(rows: list[SharedPrefix], max_tokens: int) -> list[list[int]]:
    """Rows that are scored together, the longest first, within `max_tokens` tokens, padding included.

    Example:
        >>> rows = [SharedPrefix([0] * n, [Branch(1, [], [0])]) for n in (3, 9, 4)]
        >>> micro_batches(rows, 12)
        [[1], [2, 0]]
    """
    batches: list[list[int]] = []
    widest = (0, 0)  # context and branches of the last batch, in tokens
    for row in sorted(range(len(rows)), key=lambda i: -rows[i].size):
        own = (len(rows[row].context), rows[row].size - len(rows[row].context))
        together = (max(widest[0], own[0]), max(widest[1], own[1]))
        if batches and (len(batches[-1]) + 1) * sum(together) <= max_tokens:
            batches[-1].append(row)
            widest = together
        else:
            batches.append([row])
            widest = own
    return batches


@torch.no_grad()
def shared_prefix_log_probs(model: torch.nn.Module, rows: list[SharedPrefix]) -> list[list[torch.Tensor]]:
    """Score several responses in exactly two forwards: one over their contexts, one over their branches.

    Args:
        model: a causal language model in Hugging Face's interface for which `why_not_packed` is None.
        rows: the responses.

    Returns:
        For each row and each of its branches [A] log-probs in nats, float32 on the CPU.
    """
    device = next(model.parameters()).device
    contexts = [torch.tensor(row.context, device=device) for row in rows]
    ids = torch.nn.utils.rnn.pad_sequence(contexts, batch_first=True)
    with _sdpa(model):
        # padding stands on the right, where a causal pass does not see it
        positions = torch.arange(ids.shape[1], device=device).expand_as(ids)
        cache = model(input_ids=ids, position_ids=positions, use_cache=True, logits_to_keep=1).past_key_values
        return _branch_pass(model, cache, ids.shape[1], [_BranchTable(row, device) for row in rows])


class _BranchTable:
    """The tokens of one row's branches, those that predict an answer's token last.

    A branch begins with the last token that it sees of the context, read again, so that the first token of an answer
    without a suffix is predicted too; an answer's own last token predicts nothing and is not read.
    """

    def __init__(self, row: SharedPrefix, device: torch.device):
        tokens: list[tuple[bool, int, int, int]] = []  # predicts, branch, position, id
        for k, branch in enumerate(row.branches):
            ids = [row.context[branch.visible - 1], *branch.suffix, *branch.answer[:-1]]
            tokens += [(i >= len(branch.suffix), k, branch.visible - 1 + i, token) for i, token in enumerate(ids)]
        tokens.sort(key=lambda token: token[0])  # stable: within these two kinds the order stays
        self.silent = sum(not predicts for predicts, *_ in tokens)
        self.branch, self.position, self.ids = torch.tensor([token[1:] for token in tokens], device=device).T
        self.seen = torch.tensor([branch.visible - 1 for branch in row.branches], device=device)[self.branch]
        self.targets = torch.tensor([token for branch in row.branches for token in branch.answer], device=device)
        self.lengths = [len(branch.answer) for branch in row.branches]


def _branch_pass(model: torch.nn.Module, cache: Any, context: int, tables: list[_BranchTable]) -> list[list[torch.Tensor]]:
    """Log-probs of all branches' answers; `context` is the length of the cache."""
    device = tables[0].ids.device
    silent = max(table.silent for table in tables)
    width = silent + max(len(table.targets) for table in tables)
    ids = torch.zeros(len(tables), width, dtype=torch.int64, device=device)
    positions = torch.zeros_like(ids)
    mask = torch.zeros(len(tables), 1, width, context + width, dtype=torch.bool, device=device)
    mask[..., context:] = torch.eye(width, dtype=torch.bool, device=device)  # padding sees itself, else its softmax is NaN
    for row, table in enumerate(tables):
        # the predicting tokens begin at the same column in all rows
        columns = torch.arange(len(table.ids), device=device) + (silent - table.silent)
        ids[row, columns], positions[row, columns] = table.ids, table.position
        mask[row, 0, columns, :context] = torch.arange(context, device=device) < table.seen[:, None]
        same = table.branch[:, None] == table.branch
        mask[row, 0, columns[:, None], context + columns] = same & (table.position[:, None] >= table.position)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=width - silent,
    ).logits
    found = []
    for row, table in enumerate(tables):
        values = logits[row, : len(table.targets)].float().log_softmax(dim=-1).gather(1, table.targets[:, None])
        found.append(list(values[:, 0].cpu().split(table.lengths)))
    return found


@contextmanager
def _sdpa(model: torch.nn.Module) -> Iterator[None]:
    """Compute attention by torch's SDPA inside the block: flash-attention takes no mask of this form."""
    config = _text_config(model)
    before = config._attn_implementation
    config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        config._attn_implementation = before


def _inner(model: torch.nn.Module) -> torch.nn.Module:
    """The model below the wrappers of FSDP (version 1) and PEFT, whose forward takes anything."""
    model = getattr(model, "_fsdp_wrapped_module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _text_config(model: torch.nn.Module) -> Any:
    return model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
