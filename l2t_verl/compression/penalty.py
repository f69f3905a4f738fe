"""Penalties of episodes from the log-ratios of their tokens; the estimators differ in the sum."""

from __future__ import annotations

import torch

from l2t_verl.registry import PENALTIES, register_penalty


def sum_by_episode(values: torch.Tensor, episode_ids: torch.Tensor, num_episodes: int) -> torch.Tensor:
    """Sum values over the tokens of each episode.

    Args:
        values: [B, T] values of tokens; 0 where a token does not count.
        episode_ids: [B, T] episode of each token, −1 for none.
        num_episodes: K.

    Returns:
        [B, K] sums.

    Example:
        >>> sum_by_episode(torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([[0, 0, 1, -1]]), 2)
        tensor([[3., 4.]])
    """
    # the extra slot 0 takes what belongs to no episode
    sums = torch.zeros(values.shape[0], num_episodes + 1, dtype=values.dtype, device=values.device)
    return sums.scatter_add(1, episode_ids + 1, values)[:, 1:]


@register_penalty("log_ratio")
def _half_sum_of_squares(deltas: torch.Tensor, episode_ids: torch.Tensor, num_episodes: int) -> torch.Tensor:
    return 0.5 * sum_by_episode(deltas.square(), episode_ids, num_episodes)


@register_penalty("log_ratio_episode")
def _half_square_of_sum(deltas: torch.Tensor, episode_ids: torch.Tensor, num_episodes: int) -> torch.Tensor:
    return 0.5 * sum_by_episode(deltas, episode_ids, num_episodes).square()


# Each takes log-ratios [B, T] in nats, 0 outside episodes, the tokens' episodes [B, T] and K; it gives C, [B, K].
ESTIMATORS = PENALTIES


def compression_penalty(
    token_deltas: torch.Tensor,
    episode_ids: torch.Tensor,
    response_mask: torch.Tensor,
    *,
    num_episodes: int,
    estimator: str = "log_ratio",
) -> torch.Tensor:
    r"""Compression penalty C_k of each episode (arXiv 2505.10425, Eq. 4), in nats.

    The Fisher matrix of Eq. 4 is rank one, so its quadratic form is a squared directional derivative
    d_k = ⟨Δθ, ∇ log π(z_k | s_k)⟩ = Σ_{t∈k} d_t; along Δθ = θ_old − θ_0 and to first order, d_t is the log-ratio δ_t.
    `log_ratio_episode`: C_k = ½ (Σ_{t∈k} δ_t)², Eq. 4 to first order.
    `log_ratio` (default): C_k = ½ Σ_{t∈k} δ_t², the same expectation to second order, with far less variance, and
    unchanged when an episode is split. Both carry the ½ that Eq. 4 lacks, so the paper's β = 0.6 is β = 1.2 here.

    Args:
        token_deltas: [B, T] δ_t in nats, see `log_ratio_deltas`.
        episode_ids: [B, T] episode of each token, −1 for none.
        response_mask: [B, T] 1 for sampled tokens; others count in no episode.
        num_episodes: K, the width of the result.
        estimator: one of `ESTIMATORS`.

    Returns:
        [B, K] float64 in nats, 0 for episodes that a row does not have.

    Raises:
        ValueError: unknown estimator, misaligned shapes, or an id of K or more.

    Example:
        >>> deltas, ids = torch.tensor([[1.0, -1.0, 2.0, 5.0]]), torch.tensor([[0, 0, 1, -1]])
        >>> compression_penalty(deltas, ids, torch.ones(1, 4), num_episodes=2)
        tensor([[1., 2.]], dtype=torch.float64)
        >>> compression_penalty(deltas, ids, torch.ones(1, 4), num_episodes=2, estimator="log_ratio_episode")
        tensor([[0., 2.]], dtype=torch.float64)
    """
    if estimator not in ESTIMATORS:
        raise ValueError(
            f"unknown estimator {estimator!r} of a penalty from log-ratios; known: {', '.join(ESTIMATORS)} (directional and "
            "exact: see derivative_penalty)"
        )
    if not token_deltas.shape == episode_ids.shape == response_mask.shape or token_deltas.ndim != 2:
        raise ValueError(
            "token_deltas, episode_ids and response_mask must have one shape [B, T]; got "
            f"{tuple(token_deltas.shape)}, {tuple(episode_ids.shape)}, {tuple(response_mask.shape)}"
        )
    if episode_ids.numel() and int(episode_ids.max()) >= num_episodes:
        raise ValueError(f"episode_ids holds {int(episode_ids.max())}, but num_episodes is {num_episodes}")
    ids = torch.where(response_mask > 0, episode_ids, -1)
    deltas = torch.where(ids >= 0, token_deltas.double(), 0.0)
    return ESTIMATORS[estimator](deltas, ids, num_episodes)
