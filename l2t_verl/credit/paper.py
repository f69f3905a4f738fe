"""Credit as the paper states it (arXiv 2505.10425, section 4.3 and algorithm 1)."""

from __future__ import annotations

import numpy as np
import torch

from l2t_verl.credit.inputs import Rollouts, check_rollouts, to_precision

TRIMMED_SHARE = 0.025  # of the tokens, at either end: the central 95 % remain
SMALLEST_MEAN = 1e-12


def paper_advantages(
    outcome: torch.Tensor,
    process: torch.Tensor,
    episode_ids: torch.Tensor,
    response_mask: torch.Tensor,
    old_log_probs: torch.Tensor,
    index: np.ndarray,
    *,
    alpha: float,
    ratio_clip: float | None = None,
    epsilon: float = 1e-6,
    session: np.ndarray | None = None,
) -> torch.Tensor:
    r"""Token advantages of the paper's algorithm 1.

    1. R_{i,k} = r^out_i / K_i + α r^prg_{i,k};
    2. r_{i,t} = R_{i,k} w_{i,t} / Σ_{t'∈k} w_{i,t'}, with w = −log π_old;
    3. r̃_i = mean of r_{i,t} without the ⌊0.025 T_i⌋ smallest and as many largest;
    4. Â_i = (r̃_i − mean_group) / (std_group + ε), A_{i,t} = Â_i r_{i,t} / r̃_i.

    The sampled tokens outside every episode form one more segment with r^prg = 0; K_i counts segments with at least one
    sampled token. Weights are uniform where all w of a segment are 0, the ratio is 1 where |r̃_i| ≤ 1e-12; a group of one
    has mean 0 and standard deviation 1; an empty row counts in the group with r̃ = 0.

    Kept as published, with its hazards: r̃ shrinks with length, A explodes where r̃ is near 0, and a below-average rollout
    with r̃ > 0 gets its best episodes punished most. `advantage_health` measures them.

    Args:
        outcome: [B] outcome rewards r^out.
        process: [B, K] episode rewards r^prg, padded with 0, in units of J.
        episode_ids: [B, T] episode of each token, −1 in the tail.
        response_mask: [B, T] 1 for sampled tokens.
        old_log_probs: [B, T] log π_old of the sampled tokens, in nats; ignored outside the mask.
        index: [B] NumPy object array, the group of each row.
        alpha: α, weight of the process reward.
        ratio_clip: c, clips r_{i,t} / r̃_i to [−c, c]; None, as published, does not.
        epsilon: ε.
        session: [B] agent-loop session of each row, or None. A session with several rows counts once in the group's
            statistics, with the mean of its r̃.

    Returns:
        [B, T] advantages, 0 outside the mask; computed in float64, returned in the precision of `old_log_probs`.

    Raises:
        ValueError: see `check_rollouts`.

    Example:
        >>> advantages = paper_advantages(
        ...     torch.tensor([1.0, 0.0]), torch.tensor([[0.5], [0.0]]), torch.tensor([[0, -1], [0, -1]]),
        ...     torch.ones(2, 2), torch.full((2, 2), -1.0), np.array(["a", "a"], dtype=object), alpha=1.0)
        >>> advantages  # r = (1.0, 0.5), r̃ = 0.75, Â = (0.7071, −0.7071)
        tensor([[ 0.9428,  0.4714],
                [-0.7071, -0.7071]])
    """
    rollouts = check_rollouts(outcome, process, episode_ids, response_mask, old_log_probs, index, session)
    rewards = _token_rewards(rollouts, alpha)
    typical = _trimmed_mean(rewards, rollouts.mask)
    normalised = _normalise(typical, rollouts, epsilon)
    usable = typical.abs() > SMALLEST_MEAN
    ratio = torch.where(usable[:, None], rewards / torch.where(usable, typical, 1.0)[:, None], 1.0)
    if ratio_clip is not None:
        ratio = ratio.clamp(-ratio_clip, ratio_clip)
    advantages = torch.where(rollouts.mask, normalised[:, None] * ratio, 0.0)
    return to_precision(advantages, old_log_probs.dtype)


def _token_rewards(rollouts: Rollouts, alpha: float) -> torch.Tensor:
    """[B, T] r_{i,t}, 0 outside the mask."""
    counts = rollouts.counts
    weights = rollouts.per_slot(rollouts.surprise)
    segments = (counts > 0).sum(dim=1).clamp_min(1)
    process = torch.nn.functional.pad(rollouts.process, (1, 0))  # slot 0: tokens of no episode
    rewards = rollouts.outcome[:, None] / segments[:, None] + alpha * process
    uniform = 1.0 / counts.clamp_min(1.0)
    total = rollouts.to_tokens(weights)
    share = torch.where(total > 0, rollouts.surprise / total.clamp_min(1e-300), rollouts.to_tokens(uniform))
    return rollouts.to_tokens(rewards) * share


def _trimmed_mean(rewards: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B] mean of each row's tokens without the ⌊0.025 T_i⌋ smallest and largest; 0 for empty rows."""
    lengths = mask.sum(dim=1)
    cut = (TRIMMED_SHARE * lengths.double()).floor().long()
    ordered = torch.where(mask, rewards, torch.inf).sort(dim=1).values
    rank = torch.arange(rewards.shape[1], device=rewards.device)
    kept = (rank >= cut[:, None]) & (rank < (lengths - cut)[:, None])
    return torch.where(kept, ordered, 0.0).sum(dim=1) / kept.sum(dim=1).clamp_min(1)


def _normalise(typical: torch.Tensor, rollouts: Rollouts, epsilon: float) -> torch.Tensor:
    """[B] Â_i, in float64."""
    rows = rollouts.per_session(torch.ones_like(typical))
    own = rollouts.per_session(typical) / rows  # of the whole session
    sizes = rollouts.sessions_per_group()
    mean = rollouts.per_group(own / rows) / sizes.clamp_min(1.0)
    mean = torch.where(sizes > 1, mean, 0.0)[rollouts.group]
    variance = rollouts.per_group((own - mean).square() / rows) / (sizes - 1).clamp_min(1.0)
    std = torch.where(sizes > 1, variance.sqrt(), 1.0)
    return (typical - mean) / (std[rollouts.group] + epsilon)
