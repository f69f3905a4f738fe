"""A new episode where the policy surprised itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from l2t_verl.episodes.limits import MAX_EPISODES, apply_limits


def surprise_ends(
    log_probs: Sequence[float] | torch.Tensor,
    body_end: int,
    *,
    surprise_threshold: float = 4.0,
    max_episodes: int = MAX_EPISODES,
    min_episode_tokens: int = 1,
) -> list[int]:
    """Cut by log-probs alone: a token with −log p ≥ the threshold opens an episode.

    Args:
        log_probs: [T] log-probs of the response's tokens, in nats.
        body_end: first token of the tail.
        surprise_threshold: in nats, > 0.
        max_episodes: most episodes.
        min_episode_tokens: shortest episode, in tokens.

    Returns:
        K end positions, the last one `body_end`; empty if the body is.

    Raises:
        ValueError: an option out of bounds, or fewer log-probs than the body has tokens.

    Example:
        >>> surprise_ends([-0.1, -5.0, -0.2, -6.0, -0.1], 5)
        [1, 3, 5]
    """
    if not surprise_threshold > 0:
        raise ValueError(f"surprise_threshold must be above 0 nats, got {surprise_threshold}")
    values = torch.as_tensor(log_probs, dtype=torch.float64)
    if values.ndim != 1 or len(values) < body_end:
        raise ValueError(f"log_probs must hold one value for each of the {body_end} tokens, got {tuple(values.shape)}")
    opening = (-values[:body_end] >= surprise_threshold).nonzero().flatten().tolist()
    return apply_limits([*opening, body_end], max_episodes=max_episodes, min_episode_tokens=min_episode_tokens)
