"""A second length penalty that L2T is compared with: the easier a question, the more a token costs."""

from __future__ import annotations

import numpy as np
import torch

from l2t_verl.credit.groups import advantages_of_rewards
from l2t_verl.credit.inputs import check_rollouts
from l2t_verl.credit.length_price import length_price


def adaptive_length_penalty_advantages(
    outcome: torch.Tensor,
    process: torch.Tensor,
    episode_ids: torch.Tensor,
    response_mask: torch.Tensor,
    old_log_probs: torch.Tensor,
    index: np.ndarray,
    *,
    length_cost: float,
    max_length: int,
    session: np.ndarray | None = None,
) -> torch.Tensor:
    r"""A_{i,t} = r_i − mean r of the group, with r_i = r^out_i − (λ/L) T_i max(p, 1/n) (ALP, arXiv 2506.05256).

    p is the share of the group's n rollouts that are right, those with r^out > 0: a question that is always solved charges
    the whole price, one that is never solved an n-th of it. All rollouts are charged, right or wrong, as published. GRPO's
    division by the group's standard deviation is left out: where all are right, or all wrong, it would cancel λ and p.

    Args:
        outcome: [B] outcome rewards.
        process: [B, K] not used; all credits take the same arguments.
        episode_ids: [B, T] not used.
        response_mask: [B, T] 1 for sampled tokens; T_i counts them.
        old_log_probs: [B, T] not used.
        index: [B] NumPy object array, the group of each row.
        length_cost: λ ≥ 0, the price of a response of length L, in units of the outcome.
        max_length: L, the longest response allowed, in tokens.
        session: see `outcome_advantages`; the rows of one session are one rollout, whose last row carries the outcome.

    Returns:
        [B, T] advantages, 0 outside the mask, in the precision of `outcome`.

    Raises:
        ValueError: see `check_rollouts` and `length_price`.

    Example:
        >>> adaptive_length_penalty_advantages(
        ...     torch.tensor([1.0, 0.0]), torch.zeros(2, 0), torch.full((2, 2), -1), torch.ones(2, 2), torch.zeros(2, 2),
        ...     np.array(["a", "a"], dtype=object), length_cost=0.5, max_length=4)
        tensor([[ 0.5000,  0.5000],
                [-0.5000, -0.5000]])
    """
    rollouts = check_rollouts(outcome, process, episode_ids, response_mask, old_log_probs, index, session)
    price = length_price(rollouts, length_cost, "all", max_length).token * rollouts.length
    share = rollouts.per_group_once(rollouts.right).clamp_min(1.0) / rollouts.sessions_per_group().clamp_min(1.0)
    rewards = rollouts.final_outcome - price * share[rollouts.group]
    return advantages_of_rewards(rollouts, rewards, index, norm_by_std=False, session=session, dtype=outcome.dtype)
