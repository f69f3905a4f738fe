"""Credit by episode: the outcome plus the reward of the token's own episode, minus the price of the tokens still to come."""

from __future__ import annotations

import numpy as np
import torch

from l2t_verl.credit.groups import outcome_advantages, smallest_spread
from l2t_verl.credit.inputs import Rollouts, check_rollouts, to_precision
from l2t_verl.credit.length_price import length_price


def episode_advantages(
    outcome: torch.Tensor,
    process: torch.Tensor,
    episode_ids: torch.Tensor,
    response_mask: torch.Tensor,
    old_log_probs: torch.Tensor,
    index: np.ndarray,
    *,
    alpha: float,
    gamma: float | None = None,
    surprise_weights: bool = False,
    length_cost: float = 0.0,
    length_cost_for: str = "correct",
    max_length: int = 1,
    std_floor: float = 0.05,
    norm_by_std: bool = True,
    epsilon: float = 1e-6,
    session: np.ndarray | None = None,
) -> torch.Tensor:
    r"""Token advantages A_{i,t} = Â^out_i + α (r^prg_{i,k(t)} − m) / max(s, s_min) − (P_{i,t} − p_i).

    m and s are the mean and the (population) standard deviation of r^prg over those tokens of the group's rollouts that lie
    in episodes, so that the process part sums to 0 over them. Tail tokens have no process part, and neither has a group
    without episodes. s_min is s_floor, or more where no rollout is right (see `smallest_spread`).

    P_{i,t} = (λ/L) n_{i,≥t} is the price of the tokens still to come, and p_i is its mean over the tokens of the group's
    other charged rollouts (see `LengthPrice`). The price is not divided by s: that would raise it where gains vanish.

    Args:
        outcome: [B] outcome rewards.
        process: [B, K] episode rewards r^prg, padded with 0, in units of J.
        episode_ids: [B, T] episode of each token, −1 in the tail.
        response_mask: [B, T] 1 for sampled tokens.
        old_log_probs: [B, T] log π_old, in nats; used with `surprise_weights`.
        index: [B] NumPy object array, the group of each row.
        alpha: α, weight of the process part; with 0 and λ = 0 the result is verl's GRPO, bit for bit.
        gamma: γ; normalises the return-to-go G_{i,k} = Σ_{j≥k} γ^{j−k} r^prg_{i,j} in r's place. None: r itself.
        surprise_weights: multiply the process part by N_k w_t / Σ_{t'∈k} w_{t'}, w = −log π_old.
        length_cost: λ ≥ 0, the price of a response of length L, in units of the advantage.
        length_cost_for: which rollouts are charged, `all` or `correct`.
        max_length: L, the longest response allowed, in tokens.
        std_floor: s_floor > 0, in units of J.
        norm_by_std: divide the outcome part by the group's standard deviation.
        epsilon: ε of the outcome part.
        session: see `outcome_advantages`.

    Returns:
        [B, T] advantages, 0 outside the mask, in the precision of `outcome`.

    Raises:
        ValueError: see `check_rollouts` and `length_price`.

    Example:
        >>> episode_advantages(
        ...     torch.tensor([1.0, 1.0]), torch.tensor([[0.25], [-0.25]]), torch.tensor([[0, -1], [0, -1]]),
        ...     torch.ones(2, 2), torch.zeros(2, 2), np.array(["a", "a"], dtype=object), alpha=1.0)
        tensor([[ 1.,  0.],
                [-1.,  0.]])
    """
    rollouts = check_rollouts(outcome, process, episode_ids, response_mask, old_log_probs, index, session)
    result = outcome_advantages(outcome, index, norm_by_std=norm_by_std, epsilon=epsilon, session=session)
    if alpha == 0 and length_cost == 0:
        return result.unsqueeze(-1) * response_mask
    price = length_price(rollouts, length_cost, length_cost_for, max_length)
    values = rollouts.process if gamma is None else returns_to_go(rollouts.process, gamma)
    part = torch.nn.functional.pad(alpha * group_normalised(values, rollouts, std_floor), (1, 0))
    outcomes = result.double()[:, None]
    if surprise_weights:
        weighted = rollouts.to_tokens(part) * _relative_surprise(rollouts)
        advantages = rollouts.spread_to_tokens(outcomes.expand_as(part), part.dtype) + weighted
        return to_precision(price.against_tokens(advantages), result.dtype)
    return price.against_tokens(rollouts.spread_to_tokens(outcomes + part, result.dtype))


def returns_to_go(process: torch.Tensor, gamma: float) -> torch.Tensor:
    r"""Discounted returns G_k = Σ_{j≥k} γ^{j−k} r_j.

    Args:
        process: [B, K] episode rewards.
        gamma: γ, in [0, 1].

    Returns:
        [B, K] returns, in the unit of the rewards.

    Example:
        >>> returns_to_go(torch.tensor([[1.0, 2.0, 4.0]]), 0.5)
        tensor([[3., 4., 4.]])
    """
    steps = torch.arange(process.shape[1], device=process.device)
    distance = steps[:, None] - steps[None, :]  # [j, k]
    weights = torch.where(distance >= 0, float(gamma) ** distance.clamp_min(0).to(process.dtype), 0.0)
    return process @ weights


def group_normalised(values: torch.Tensor, rollouts: Rollouts, std_floor: float) -> torch.Tensor:
    """[B, K] values of episodes, centred and scaled over the tokens of each group that lie in episodes."""
    tokens = rollouts.counts[:, 1:]
    count = rollouts.per_group(tokens.sum(dim=1)).clamp_min(1.0)
    mean = rollouts.per_group((tokens * values).sum(dim=1)) / count
    centred = values - mean[rollouts.group][:, None]
    std = (rollouts.per_group((tokens * centred.square()).sum(dim=1)) / count).sqrt()
    return centred / std.maximum(smallest_spread(rollouts, std_floor))[rollouts.group][:, None]


def _relative_surprise(rollouts: Rollouts) -> torch.Tensor:
    """[B, T] N_k w_t / Σ w, whose mean over each episode is 1; 1 where all w of an episode are 0."""
    count = rollouts.to_tokens(rollouts.counts)
    total = rollouts.to_tokens(rollouts.per_slot(rollouts.surprise))
    return torch.where(total > 0, count * (rollouts.surprise / total.clamp_min(1e-300)), 1.0)
