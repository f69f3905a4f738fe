"""Bounds on the number and the length of episodes."""

from __future__ import annotations

from collections.abc import Iterable

MAX_EPISODES = 30  # the paper's "fixed" setting


def apply_limits(ends: Iterable[int], *, max_episodes: int = MAX_EPISODES, min_episode_tokens: int = 1) -> list[int]:
    """Merge episodes that are too short, and those that are too many.

    An episode shorter than `min_episode_tokens` joins the following one; if it is the last, it joins the one before it.
    Episodes beyond `max_episodes` join the last one that is allowed. The last end always stays.

    Args:
        ends: end positions in tokens, in any order; 0 and repetitions are dropped.
        max_episodes: at least 1.
        min_episode_tokens: at least 1.

    Returns:
        End positions in increasing order; empty if there were none.

    Raises:
        ValueError: a limit below 1.

    Example:
        >>> apply_limits([2, 3, 9, 10], min_episode_tokens=3), apply_limits([2, 4, 6, 8], max_episodes=2)
        ([3, 10], [2, 8])
    """
    for name, value in (("max_episodes", max_episodes), ("min_episode_tokens", min_episode_tokens)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    positions = sorted({end for end in ends if end > 0})
    if not positions:
        return []
    last = positions[-1]
    kept: list[int] = []
    for end in positions[:-1]:
        if end - (kept[-1] if kept else 0) >= min_episode_tokens:
            kept.append(end)
    while kept and last - kept[-1] < min_episode_tokens:
        kept.pop()
    return [*kept[: max_episodes - 1], last]
