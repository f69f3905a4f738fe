"""The penalty without what rounding adds to it: a squared log-ratio of two roundings is mostly their noise."""

from __future__ import annotations

import torch

from l2t_verl.compression.penalty import sum_by_episode
from l2t_verl.compression.reference import LARGEST_DELTA
from l2t_verl.registry import SQUARED_LOG_RATIOS

BINS = 8  # of tokens by their log-prob: an unlikely token's is rounded more


def corrected_penalty(
    token_deltas: torch.Tensor,
    token_noise: torch.Tensor,
    token_levels: torch.Tensor,
    episode_ids: torch.Tensor,
    response_mask: torch.Tensor,
    *,
    num_episodes: int,
    estimator: str = "log_ratio",
) -> torch.Tensor:
    r"""Compression penalty C_k of each episode (arXiv 2505.10425, Eq. 4) less its rounding, in nats.

    With the log-probs a of the actor, r of the reference and e of the rollout engine, δ = a − r and n = a − e. The engine
    has the actor's weights, so that n is rounding, and

        ½ δ² − δ n = ½ [(e − r)² − (e − a)²]

    is half the squared distance of the reference from the engine less that of the actor: the engine's own rounding cancels,
    and the actor's and the reference's cancel in expectation. It is 0 where a = r bit for bit. A single one is as noisy as
    δ² itself, so each is shrunk towards its like (empirical Bayes): with w = 1 and the tokens of one bin of ½ (a + r), a
    cut that is symmetric in the two, or for `log_ratio_episode` with sums over an episode for δ and n, w its tokens and all
    episodes in one bin,

        s = Σ (δ² − 2 δ n) / Σ w,  t = Σ δ² / Σ w,  ρ = s / t within [0, 1],  C = ½ [w s + ρ² (δ² − w t)].

    The batch's total is that of the unshrunk ones for any ρ, the noise of one is less by ρ². Where nothing has moved a mean
    is as likely to be below 0 as above it, and is not cut off there: that would be a bias. `log_ratio` adds up its tokens'.

    Assumes that actor and reference round alike, given the engine; an adapter in one of them only, or another kernel for
    the actor's log-probs (`gain.fused`), leaves half the difference of the two variances. The engine's log-probs have to be
    those of the whole softmax, not of its largest words only (top-p, top-k). Rows that older weights sampled
    are lowered by half their squared distance from the actor, for n is more than rounding there. A mean of n is the
    engine's tendency, not noise, and is taken off for `log_ratio_episode`, where it would add up.

    Args:
        token_deltas: [B, T] δ_t in nats, between actor and reference in all rows; see `log_ratio_deltas`.
        token_noise: [B, T] n_t in nats; clamped to ±100, and 0 where it is NaN.
        token_levels: [B, T] ½ (a + r) in nats.
        episode_ids: [B, T] episode of each token, −1 for none.
        response_mask: [B, T] 1 for sampled tokens; what stands elsewhere is ignored, whatever it is.
        num_episodes: K, the width of the result.
        estimator: `log_ratio` or `log_ratio_episode`; see `compression_penalty`.

    Returns:
        [B, K] float64 in nats, of either sign; 0 for episodes that a row does not have.

    Raises:
        ValueError: unknown estimator, or misaligned shapes.

    Example:
        >>> deltas, ids = torch.tensor([[0.5, 0.5]]), torch.tensor([[0, 1]])
        >>> noise, ones = torch.tensor([[0.25, -0.25]]), torch.ones(1, 2)
        >>> corrected_penalty(deltas, noise, -ones, ids, ones, num_episodes=2)
        tensor([[0.0000, 0.2500]], dtype=torch.float64)
    """
    if estimator not in SQUARED_LOG_RATIOS:
        known = ", ".join(SQUARED_LOG_RATIOS)
        raise ValueError(f"rounding cannot be told from a penalty by {estimator!r}; from these it can: {known}")
    shapes = [tuple(x.shape) for x in (token_deltas, token_noise, token_levels, episode_ids, response_mask)]
    if len(set(shapes)) > 1 or token_deltas.ndim != 2:
        raise ValueError(f"deltas, noise, levels, episode_ids and response_mask must have one shape [B, T]; got {shapes}")
    ids = torch.where(response_mask > 0, episode_ids, -1)
    live = ids >= 0
    deltas, noise = (torch.where(live, values.double(), 0.0) for values in (token_deltas, token_noise))
    noise = noise.nan_to_num(nan=0.0).clamp(-LARGEST_DELTA, LARGEST_DELTA)  # as log_ratio_deltas has δ
    if estimator == "log_ratio":
        penalties = torch.zeros_like(deltas)
        one = torch.ones_like(deltas[live])
        penalties[live] = shrunk(deltas[live], noise[live], one, bins_of(token_levels.double()[live]))
        return sum_by_episode(penalties, ids, num_episodes)
    noise = torch.where(live, noise - noise[live].mean(), 0.0) if live.any() else noise
    sums, noises, tokens = (sum_by_episode(values, ids, num_episodes) for values in (deltas, noise, live.double()))
    there = tokens > 0
    penalties = torch.zeros_like(sums)
    penalties[there] = shrunk(sums[there], noises[there], tokens[there], torch.zeros_like(tokens[there], dtype=torch.int64))
    return penalties


def shrunk(deltas: torch.Tensor, noise: torch.Tensor, weights: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    r"""½ [w s + ρ² (δ² − w t)] of each element, with s, t and ρ of its bin; see `corrected_penalty`.

    Args:
        deltas: [N] δ in nats, float64.
        noise: [N] n in nats.
        weights: [N] w, what the variance of the elements goes with; above 0.
        bins: [N] number of each one's bin.

    Returns:
        [N] in nats, float64.

    Example:
        >>> one = torch.ones(2, dtype=torch.float64)
        >>> shrunk(torch.tensor([1.0, 3.0]).double(), 0 * one, one, torch.tensor([0, 0]))
        tensor([0.5000, 4.5000], dtype=torch.float64)
    """
    if not len(deltas):
        return deltas.double()

    def in_bin(values: torch.Tensor) -> torch.Tensor:
        return torch.zeros(int(bins.max()) + 1, dtype=torch.float64).index_add(0, bins, values)

    squares = deltas.square()
    total = in_bin(weights)
    mean = (in_bin(squares - 2 * deltas * noise) / total)[bins]
    raw = (in_bin(squares) / total)[bins]
    signal = torch.where(raw > 0, mean / raw, 0.0).clamp(0, 1)
    return 0.5 * (weights * mean + signal.square() * (squares - weights * raw))


def bins_of(levels: torch.Tensor) -> torch.Tensor:
    """Sort tokens by their log-prob into `BINS` bins of equal size.

    Args:
        levels: [N] log-probs in nats.

    Returns:
        [N] int64, the number of each token's bin; 0 holds the least likely tokens.

    Example:
        >>> bins_of(torch.arange(16.0)).bincount().tolist()
        [2, 2, 2, 2, 2, 2, 2, 2]
    """
    ranks = torch.empty(len(levels), dtype=torch.int64)
    ranks[levels.argsort(stable=True)] = torch.arange(len(levels))
    return ranks * BINS // max(len(levels), 1)
