"""One episode for each `<think>…</think>` block."""

from __future__ import annotations

from l2t_verl.episodes.body import Body


def think_blocks(body: Body) -> list[int] | None:
    """Cut where thoughts close.

    Args:
        body: the reasoning, with the positions of the marks in it.

    Returns:
        Cuts, as character positions; None if the text has no thinking mark.

    Example:
        >>> think_blocks(Body(end=12, closings=(5, 12), has_thoughts=True))
        [5, 12]
    """
    return list(body.closings) if body.has_thoughts else None
