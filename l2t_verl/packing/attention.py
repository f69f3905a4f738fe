"""Attention of packed rows, put in the place of a model's own for the time of one forward.

A context's token sees its row up to itself. A branch's token sees its row's context up to the branch's boundary and its
own branch. Contexts are therefore causal attention without any mask. On a CPU branches are taken a few neighbours at a
time, so that what one of them does not see of the context is hardly computed; on a GPU all of a row's at once, since a
call with few queries leaves most of it idle. Their masks are [their tokens, what they see].
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "l2t_packed"
GROUPS = 8  # of a row's branches on a CPU, at most: more save work on the context, and cost a call each
SHORT = 128  # tokens of the context that are not worth another group


@dataclass(frozen=True)
class BranchGroup:
    """Branches of one row that attend together.

    Attributes:
        tokens: where they stand in the sequence.
        context: what the furthest of them sees of its row's context.
        mask: [tokens, context + tokens] bool.
    """

    tokens: slice
    context: slice
    mask: torch.Tensor


@dataclass
class Layout:
    """Where things stand in the packed sequence.

    Attributes:
        contexts: the rows' contexts.
        groups: their branches.
        calls: how often attention was computed with it.
    """

    contexts: list[slice] = field(default_factory=list)
    groups: list[BranchGroup] = field(default_factory=list)
    calls: int = 0


_layout: ContextVar[Layout] = ContextVar("l2t_packed_layout")


def branch_groups(
    context_start: int, start: int, visible: list[int], sizes: list[int], device: torch.device
) -> Iterator[BranchGroup]:
    """Group a row's branches, which stand one after another from `start` on.

    Args:
        context_start: where the row's context begins in the sequence.
        start: where the first branch begins.
        visible: context tokens that each branch sees, not decreasing; the branch's own first token comes after them.
        sizes: tokens of each branch.
        device: of the masks.

    Yields:
        Groups of branches that see nearly as much of the context, each with its mask.
    """
    groups = 1 if device.type == "cuda" else GROUPS
    reach = max(SHORT, -(-visible[-1] // groups))
    first = 0
    while first < len(visible):
        last = first
        while last + 1 < len(visible) and visible[last + 1] - visible[first] <= reach:
            last += 1
        seen, lengths = torch.tensor(visible[first : last + 1]), torch.tensor(sizes[first : last + 1])
        owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        prefix = torch.arange(visible[last]) < seen[owner, None]
        own = (owner[:, None] == owner).tril()
        size = sum(sizes[first : last + 1])
        mask = torch.cat([prefix, own], dim=1).to(device)
        yield BranchGroup(slice(start, start + size), slice(context_start, context_start + visible[last]), mask)
        start += size
        first = last + 1


@contextmanager
def packed_attention(config: Any, layout: Layout) -> Iterator[None]:
    """Let a model attend by `layout` inside the block: each branch to its prefix and to itself.

    Args:
        config: the model's configuration.
        layout: where contexts and branches stand in the packed sequence.

    Raises:
        NotImplementedError: the model did not ask for its attention once a layer.
    """
    before = config._attn_implementation
    token = _layout.set(layout)
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _layout.reset(token)
    if layout.calls != config.num_hidden_layers:
        raise NotImplementedError(
            f"the model computed {layout.calls} attentions that can be exchanged in {config.num_hidden_layers} layers; its "
            "rows cannot be packed"
        )


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The attention in transformers' interface: [1, heads, tokens, size] to [1, tokens, heads, size]."""
    layout = _layout.get()
    layout.calls += 1
    found = query.new_empty(*query.shape[:-1], value.shape[-1])
    for rows in layout.contexts:
        found[:, :, rows] = _grouped(query[:, :, rows], key[:, :, rows], value[:, :, rows], None, scaling)
    for group in layout.groups:
        keys, values = (torch.cat([x[:, :, group.context], x[:, :, group.tokens]], dim=2) for x in (key, value))
        found[:, :, group.tokens] = _grouped(query[:, :, group.tokens], keys, values, group.mask, scaling)
    return found.transpose(1, 2).contiguous(), None


def _grouped(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> torch.Tensor:
    """Attention of grouped heads; causal without a mask.

    CUDA's flash kernel alone knows grouped heads, and it takes neither a mask nor float32: there, keys and values are
    repeated, because the kernel that is left would write out the whole matrix of scores.
    """
    grouped = query.shape[1] != key.shape[1]
    if grouped and key.is_cuda and (mask is not None or key.dtype == torch.float32):
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        grouped = False
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
    )


# Without a mask function of the same name transformers builds no mask for it
AttentionInterface.register(NAME, _attend)
