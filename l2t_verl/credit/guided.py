"""The critic, guided by own gains where right answers are rare: how much of each a group has depends on its success."""

from __future__ import annotations

import numpy as np
import torch

from l2t_verl.credit.critic import critic_table, successes
from l2t_verl.credit.episode import group_normalised
from l2t_verl.credit.inputs import check_rollouts
from l2t_verl.credit.length_price import length_price


def guided_advantages(
    outcome: torch.Tensor,
    process: torch.Tensor,
    episode_ids: torch.Tensor,
    response_mask: torch.Tensor,
    old_log_probs: torch.Tensor,
    index: np.ndarray,
    *,
    scores: torch.Tensor,
    alpha: float,
    weights: torch.Tensor | None = None,
    decay: float = 0.95,
    length_cost: float = 0.0,
    length_cost_for: str = "correct",
    max_length: int = 1,
    std_floor: float = 0.05,
    session: np.ndarray | None = None,
) -> torch.Tensor:
    r"""Token advantages of three parts, which are added.

    A_{i,t} = [q > 0] A^V_{i,k(t)} / s + α (1 − q) (r^prg_{i,k(t)} − m) / max(σ, σ_min) − (c/L) (n_{i,≥t} − mean_j n_{j,≥t})

    q is the share of the group's rollouts that are right. The first term is that of `critic_advantages`, but for groups
    without a right rollout, which say nothing of V: they have none, and do not count in the root mean square s. The second
    is the process part of `episode_advantages`. So a group in which nothing is right has its gains alone, one in which all
    is right its outcomes and the price alone, and what is paid for progress fades as answers come right.

    Args:
        outcome: [B] outcome rewards, in [0, 1]; what lies beyond is clamped in q and in V's states.
        process: [B, K] episode rewards r^prg, padded with 0, in units of J.
        episode_ids: [B, T] episode of each token, −1 in the tail.
        response_mask: [B, T] 1 for sampled tokens.
        old_log_probs: [B, T] not used; all credits take the same arguments.
        index: [B] NumPy object array, the group of each row.
        scores: [B, K+1] J_0 … J_K in [0, 1], padded with the last.
        alpha: α, the weight of own gains in a group without a right rollout.
        weights: [5] w of V; None, as before the first step: V is the others' mean outcome.
        decay: λ of GAE.
        length_cost: c ≥ 0, the price of a response of length L, in units of s.
        length_cost_for: which rollouts are charged, `all` or `correct`.
        max_length: L, the longest response allowed, in tokens.
        std_floor: the smallest σ, in units of J; σ_min is more where no rollout is right (see `smallest_spread`).
        session: see `outcome_advantages`; the rows of one session are one rollout.

    Returns:
        [B, T] advantages, 0 outside the mask, in the precision of `outcome`.

    Raises:
        ValueError: see `check_rollouts`, `critic_states` and `length_price`.

    Example:
        >>> guided_advantages(  # neither is right: the gains alone
        ...     torch.zeros(2), torch.tensor([[1.0], [-1.0]]), torch.tensor([[0, -1], [0, -1]]), torch.ones(2, 2),
        ...     torch.zeros(2, 2), np.array(["a", "a"], dtype=object), scores=torch.full((2, 2), 0.5), alpha=0.5)
        tensor([[ 0.5000,  0.0000],
                [-0.5000,  0.0000]])
    """
    rollouts = check_rollouts(outcome, process, episode_ids, response_mask, old_log_probs, index, session)
    price = length_price(rollouts, length_cost, length_cost_for, max_length)
    share = (successes(rollouts) / rollouts.sessions_per_group().clamp_min(1.0))[rollouts.group]
    gains = alpha * (1 - share)[:, None] * group_normalised(rollouts.process, rollouts, std_floor)
    table = critic_table(rollouts, scores, weights, decay, share > 0) + torch.nn.functional.pad(gains, (1, 0))
    return price.against_positions(rollouts.spread_to_tokens(table, outcome.dtype))
