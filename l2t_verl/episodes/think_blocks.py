"""One episode for each `<think>…</think>` block."""

from __future__ import annotations

from l2t_verl.episodes.body import Body


def think_blocks(body: Body) -> list[int] | None:
    """Cuts where thoughts close, as character positions; None if the text has no thinking mark."""
    return list(body.closings) if body.has_thoughts else None
