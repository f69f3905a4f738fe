"""Credit by a critic that costs no model: the answer's score J, turned into the probability of being right."""

from __future__ import annotations

import numpy as np
import torch

from l2t_verl.credit.inputs import Rollouts, check_rollouts
from l2t_verl.credit.length_price import length_price

FEATURES = ("logit J_k", "logit of the others' mean outcome", "k / 10", "logit J_k · k / 10", "1")
PRIOR = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)  # V is the others' mean outcome, whatever J says
SMALLEST_PROBABILITY = 1e-3  # logits lie within ±6.9
EPISODES_PER_UNIT = 10.0
SMALLEST_SCALE = 1e-3


def critic_states(rollouts: Rollouts, scores: torch.Tensor) -> torch.Tensor:
    r"""[B, K+1, 5] x_{i,k} = [logit J_k, logit q_i, k/10, logit J_k · k/10, 1], what V is made of after k episodes.

    q_i = (Σ_{j≠i} r_j + ½) / (n + 1) is the smoothed mean outcome of the group's n other rollouts, clamped to [0, 1] each: a
    rollout's own outcome is not in its states. Probabilities are clamped to [0.001, 0.999].

    Args:
        rollouts: checked.
        scores: [B, K+1] J_0 … J_K in [0, 1], padded with the last.

    Raises:
        ValueError: scores of another shape, or not finite (with the row).
    """
    rows, slots = rollouts.counts.shape
    if scores.shape != (rows, slots):
        raise ValueError(f"scores must have shape [B, K+1] with B={rows}, K={slots - 1}; got {list(scores.shape)}")
    if len(bad := (~torch.isfinite(scores)).any(dim=1).nonzero()):
        raise ValueError(f"scores of row {int(bad[0])} are not finite: {scores[int(bad[0])].tolist()}")
    others = rollouts.sessions_per_group()[rollouts.group] - 1
    right = successes(rollouts)[rollouts.group] - success(rollouts)
    chance = _logit((right + 0.5) / (others + 1))[:, None].expand(rows, slots)
    score = _logit(scores.double())
    part = (torch.arange(slots, dtype=torch.float64) / EPISODES_PER_UNIT).expand(rows, slots)
    return torch.stack([score, chance, part, score * part, torch.ones_like(score)], dim=-1)


def success(rollouts: Rollouts) -> torch.Tensor:
    """[B] what V predicts: each rollout's outcome, that of its session's last row, clamped to [0, 1]."""
    return rollouts.final_outcome.clamp(0.0, 1.0)


def successes(rollouts: Rollouts) -> torch.Tensor:
    """[G] sum of what V predicts over each group's sessions."""
    return rollouts.per_group_once(success(rollouts))


def episodes_of(rollouts: Rollouts) -> torch.Tensor:
    """[B] K_i, the number of each row's last episode with a sampled token; 0 for rows without episodes."""
    numbers = torch.arange(rollouts.counts.shape[1])
    return torch.where(rollouts.counts > 0, numbers, 0).amax(dim=1)


def critic_values(rollouts: Rollouts, scores: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """[B, K+1] V_{i,k} = σ(w · x_{i,k}); of rows without episodes, and without weights, the others' mean outcome q_i."""
    states = critic_states(rollouts, scores)
    chance = torch.sigmoid(states @ PRIOR)
    if weights is None:
        return chance
    return torch.where((episodes_of(rollouts) > 0)[:, None], torch.sigmoid(states @ weights.double()), chance)


def gae_by_episode(values: torch.Tensor, outcome: torch.Tensor, episodes: torch.Tensor, decay: float) -> torch.Tensor:
    r"""A_k = Σ_{j≥k} λ^{j−k} δ_j over a row's episodes and its tail (GAE, arXiv 1506.02438, without discount).

    δ_k = V_k − V_{k−1} for an episode, r − V_{K_i} for the tail. λ = 1 telescopes: A_k = r − V_{k−1}.

    Args:
        values: [B, K+1] V_0 … V_K; what stands beyond K_i does not matter.
        outcome: [B] r.
        episodes: [B] K_i.
        decay: λ in [0, 1].

    Returns:
        [B, K+1] the tail's, then the episodes' in their order; 0 for those that a row does not have.

    Example:
        >>> gae_by_episode(torch.tensor([[0.5, 0.75]]), torch.tensor([1.0]), torch.tensor([1]), 0.5)
        tensor([[0.2500, 0.3750]])
    """
    tail = outcome - values.gather(1, episodes[:, None])[:, 0]
    running, found = tail, []
    for k in reversed(range(values.shape[1] - 1)):
        inside = k < episodes
        running = torch.where(inside, values[:, k + 1] - values[:, k] + decay * running, running)
        found.append(torch.where(inside, running, 0.0))
    return torch.stack([tail, *reversed(found)], dim=1)


def critic_advantages(
    outcome: torch.Tensor,
    process: torch.Tensor,
    episode_ids: torch.Tensor,
    response_mask: torch.Tensor,
    old_log_probs: torch.Tensor,
    index: np.ndarray,
    *,
    scores: torch.Tensor,
    weights: torch.Tensor | None = None,
    decay: float = 0.95,
    length_cost: float = 0.0,
    length_cost_for: str = "correct",
    max_length: int = 1,
    session: np.ndarray | None = None,
) -> torch.Tensor:
    r"""A_{i,t} = Σ_{j≥k(t)} λ^{j−k(t)} δ_{i,j} / s − (c/L) (n_{i,≥t} − mean_j n_{j,≥t}).

    δ_{i,k} = V_{i,k} − V_{i,k−1} for an episode and r_i − V_{i,K_i} for the tail, V = σ(w · x) as `critic_values` has it.
    The weights come from earlier steps' rollouts (see `learn`), so V does not depend on the outcome that it judges; with
    λ = 1 the gradient is unbiased whatever V is. s is the root mean square over the batch's tokens (at least 0.001): no mean
    is taken off, and nothing is divided by a group's spread, so an episode that changes nothing gets what follows it and no
    more.
    The last term is the length price of `shaped`, linear in c (see `LengthPrice`).

    Args:
        outcome: [B] outcome rewards, in [0, 1]; what lies beyond is clamped in V's states alone.
        process: [B, K] not used but for its width.
        episode_ids: [B, T] episode of each token, −1 in the tail.
        response_mask: [B, T] 1 for sampled tokens.
        old_log_probs: [B, T] not used; all credits take the same arguments.
        index: [B] NumPy object array, the group of each row.
        scores: [B, K+1] J_0 … J_K in [0, 1], padded with the last.
        weights: [5] w, see `FEATURES`; None, as before the first step: V is the others' mean outcome.
        decay: λ of GAE.
        length_cost: c ≥ 0, the price of a response of length L, in units of s.
        length_cost_for: which rollouts are charged, `all` or `correct`.
        max_length: L, the longest response allowed, in tokens.
        session: see `outcome_advantages`; the rows of one session are one rollout.

    Returns:
        [B, T] advantages, 0 outside the mask, in the precision of `outcome`.

    Raises:
        ValueError: see `check_rollouts`, `critic_states` and `length_price`.

    Example:
        >>> critic_advantages(  # V is the other's outcome, smoothed: 1/4 for the right one, 3/4 for the wrong one
        ...     torch.tensor([1.0, 0.0]), torch.zeros(2, 1), torch.tensor([[0, -1], [0, -1]]), torch.ones(2, 2),
        ...     torch.zeros(2, 2), np.array(["a", "a"], dtype=object), scores=torch.full((2, 2), 0.5), decay=1.0)
        tensor([[ 1.,  1.],
                [-1., -1.]])
    """
    rollouts = check_rollouts(outcome, process, episode_ids, response_mask, old_log_probs, index, session)
    price = length_price(rollouts, length_cost, length_cost_for, max_length)
    table = critic_table(rollouts, scores, weights, decay, torch.ones_like(rollouts.outcome, dtype=torch.bool))
    return price.against_positions(rollouts.spread_to_tokens(table, outcome.dtype))


def critic_table(
    rollouts: Rollouts, scores: torch.Tensor, weights: torch.Tensor | None, decay: float, counted: torch.Tensor
) -> torch.Tensor:
    """[B, K+1] the critic's advantages of each row's tail and episodes, over their root mean square.

    Args:
        rollouts: checked.
        scores: [B, K+1] J_0 … J_K in [0, 1], padded with the last.
        weights: [5] w, or None; see `critic_values`.
        decay: λ of GAE.
        counted: [B] bool, rows that have these advantages, over whose tokens the mean is taken; 0 for the others.
    """
    values = critic_values(rollouts, scores, weights)
    table = gae_by_episode(values, rollouts.final_outcome, episodes_of(rollouts), decay)
    counts = rollouts.counts * counted[:, None]
    scale = ((counts * table.square()).sum() / counts.sum().clamp_min(1.0)).sqrt().clamp_min(SMALLEST_SCALE)
    return torch.where(counted[:, None], table / scale, 0.0)


def _logit(probability: torch.Tensor) -> torch.Tensor:
    return torch.logit(probability, eps=SMALLEST_PROBABILITY)
