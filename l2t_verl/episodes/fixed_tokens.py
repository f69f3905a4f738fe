"""Episodes of equal length."""

from __future__ import annotations


def fixed_tokens(body_end: int, tokens_per_episode: int) -> list[int]:
    """Cuts after every `tokens_per_episode` tokens, as token positions.

    Raises:
        ValueError: the length is less than 1.
    """
    if tokens_per_episode < 1:
        raise ValueError(f"tokens_per_episode must be at least 1, got {tokens_per_episode}")
    return list(range(tokens_per_episode, body_end, tokens_per_episode))
