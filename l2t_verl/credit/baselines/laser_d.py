"""A bonus for brevity that L2T is compared with: for right responses within a length that depends on the difficulty."""

from __future__ import annotations

import math

import numpy as np
import torch

from l2t_verl.credit.groups import advantages_of_rewards
from l2t_verl.credit.inputs import Rollouts, check_rollouts, share_of

BONUS = 1 / 3  # as released: ½, where right is 1 and wrong −½


def laser_d_advantages(
    outcome: torch.Tensor,
    process: torch.Tensor,
    episode_ids: torch.Tensor,
    response_mask: torch.Tensor,
    old_log_probs: torch.Tensor,
    index: np.ndarray,
    *,
    length_share: float,
    max_length: int,
    norm_by_std: bool = True,
    session: np.ndarray | None = None,
) -> torch.Tensor:
    r"""GRPO's advantages of r_i = r^out_i + ⅓ [right_i and T_i ≤ L_d], d the group's difficulty (LASER-D, arXiv 2505.15612).

    A group of n rollouts is easy if 2n/3 of them are right or more, medium if n/3 or more, else hard. Its target L_d is the
    smallest length ≥ sL at which a group of its difficulty can expect a complete right response: P_d(L_d) c_d ≥ 1, where
    P_d(l) is the share of its difficulty's responses that are no longer than l, and c_d = ⌊2n/3⌋, ⌊n/3⌋ (at least 1) or 1,
    rounded as the released code does it. The paper measures P_d every 20 steps on 500 training questions that it samples for
    this; here it is measured on the step's own rollouts, at no cost. The bonus is a third of what is between right (1) and
    wrong (0): the released code pays ½ where those are 1 and −½.

    Args:
        outcome: [B] outcome rewards.
        process: [B, K] not used; all credits take the same arguments.
        episode_ids: [B, T] not used.
        response_mask: [B, T] 1 for sampled tokens; T_i counts them.
        old_log_probs: [B, T] not used.
        index: [B] NumPy object array, the group of each row.
        length_share: s in (0, 1], the shortest target as a share of the longest response.
        max_length: L, the longest response allowed, in tokens.
        norm_by_std: verl's `norm_adv_by_std_in_grpo`.
        session: see `outcome_advantages`; the rows of one session are one rollout, whose last row carries the outcome.

    Returns:
        [B, T] advantages, 0 outside the mask, in the precision of `outcome`.

    Raises:
        ValueError: see `check_rollouts` and `share_of`.

    Example:
        >>> laser_d_advantages(
        ...     torch.ones(3), torch.zeros(3, 0), torch.full((3, 2), -1), torch.tensor([[1.0, 0], [1, 0], [1, 1]]),
        ...     torch.zeros(3, 2), np.array(["a"] * 3, dtype=object), length_share=0.25, max_length=4, norm_by_std=False)
        tensor([[ 0.1111,  0.0000],
                [ 0.1111,  0.0000],
                [-0.2222, -0.2222]])
    """
    rollouts = check_rollouts(outcome, process, episode_ids, response_mask, old_log_probs, index, session)
    within = rollouts.length <= _targets(rollouts, share_of(max_length, length_share))
    rewards = rollouts.final_outcome + BONUS * rollouts.right * within
    return advantages_of_rewards(rollouts, rewards, index, norm_by_std=norm_by_std, session=session, dtype=outcome.dtype)


def _targets(rollouts: Rollouts, least: float) -> torch.Tensor:
    """[B] target length of each row, in tokens."""
    sizes, right = rollouts.sessions_per_group(), rollouts.per_group_once(rollouts.right)
    easy, medium = 3 * right >= 2 * sizes, 3 * right >= sizes
    expected = torch.where(easy, 2 * sizes // 3, torch.where(medium, sizes // 3, 1.0)).clamp_min(1.0)  # c_d
    level = (medium.long() + easy.long())[rollouts.group]
    targets = torch.full_like(rollouts.length, least)
    for difficulty in level.unique().tolist():
        rows = (level == difficulty).nonzero()[:, 0]
        lengths = rollouts.length[rows[rollouts.is_last[rows] & (rollouts.length[rows] > 0)]].sort().values
        if not len(lengths):
            continue
        for count in expected[rollouts.group[rows]].unique().tolist():  # one, unless groups differ in size
            enough = lengths[math.ceil(len(lengths) / count) - 1].clamp_min(least)
            targets[rows[expected[rollouts.group[rows]] == count]] = enough
    return targets
