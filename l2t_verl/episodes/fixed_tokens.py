"""Episodes of equal length."""

from __future__ import annotations


def fixed_tokens(body_end: int, tokens_per_episode: int) -> list[int]:
    """Cut after every `tokens_per_episode` tokens.

    Args:
        body_end: length of the reasoning, in tokens.
        tokens_per_episode: length of an episode, in tokens.

    Returns:
        Cuts, as token positions below `body_end`.

    Raises:
        ValueError: the length is less than 1.

    Example:
        >>> fixed_tokens(10, 4)
        [4, 8]
    """
    if tokens_per_episode < 1:
        raise ValueError(f"tokens_per_episode must be at least 1, got {tokens_per_episode}")
    return list(range(tokens_per_episode, body_end, tokens_per_episode))
