"""GRPO's group-normalised outcome, to the last bit of verl's."""

from __future__ import annotations

import numpy as np
import torch

from l2t_verl.credit.inputs import Rollouts, number_groups, to_precision


def outcome_advantages(
    outcome: torch.Tensor,
    index: np.ndarray,
    *,
    norm_by_std: bool = True,
    epsilon: float = 1e-6,
    session: np.ndarray | None = None,
) -> torch.Tensor:
    r"""Outcome advantages Â^out_i = (r_i − mean_group) / (std_group + ε), as GRPO (arXiv 2402.03300) and verl compute them.

    The standard deviation is unbiased; a group of one has mean 0 and standard deviation 1. Statistics are taken over
    the rows of each group in their order, in the outcome's own precision, so that the result equals verl's bit for bit.

    Args:
        outcome: [B] outcome rewards.
        index: [B] NumPy object array, the group of each row.
        norm_by_std: divide by the standard deviation (verl's `norm_adv_by_std_in_grpo`).
        epsilon: ε.
        session: [B] agent-loop session of each row, or None. A session's last row carries its outcome and counts in the
            statistics, and all its rows get that row's advantage, as in verl's GRPO.

    Returns:
        [B] advantages.

    Example:
        >>> outcome_advantages(torch.tensor([1.0, 0.0, 5.0]), np.array(["a", "a", "b"], dtype=object), epsilon=0.0)
        tensor([ 0.7071, -0.7071,  5.0000])
    """
    if len(outcome) == 0:
        return outcome.clone()
    if session is not None:
        number, count = number_groups(session)
        rows = torch.arange(len(number))
        last = torch.zeros(count, dtype=torch.int64).scatter_reduce(0, number, rows, "amax")
        final = outcome_advantages(outcome[last], index[last.numpy()], norm_by_std=norm_by_std, epsilon=epsilon)
        return final[number]
    group, num_groups = number_groups(index)
    sizes = torch.bincount(group, minlength=num_groups)
    # A loop over groups: torch sums the rows of a matrix in another order than a vector, which shows in the last bit.
    members = outcome[torch.argsort(group, stable=True)].split(sizes.tolist())
    zero, one = torch.zeros(()), torch.ones(())  # float32 whatever the outcome's precision, as in verl
    mean = torch.stack([(values.mean() if len(values) > 1 else zero).to(outcome) for values in members])
    divisor = torch.stack([((values.std() if len(values) > 1 else one) + epsilon).to(outcome) for values in members])
    centred = outcome - mean[group]
    advantages = centred / divisor[group] if norm_by_std else centred
    return advantages.nan_to_num()  # rewards so large that their squares overflow: 0 or the largest number


def advantages_of_rewards(
    rollouts: Rollouts,
    rewards: torch.Tensor,
    index: np.ndarray,
    *,
    norm_by_std: bool,
    session: np.ndarray | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """`outcome_advantages` of other rewards, on each sampled token: for credits that reward a rollout as a whole.

    Args:
        rollouts: checked rollouts; see `check_rollouts`.
        rewards: [B] of each row's session.
        index: see `outcome_advantages`.
        norm_by_std: see there.
        session: see there.
        dtype: of the outcomes as they were given, in whose precision groups are normalised.

    Returns:
        [B, T] advantages, 0 outside the mask, of that type.
    """
    advantages = outcome_advantages(to_precision(rewards, dtype), index, norm_by_std=norm_by_std, session=session)
    return advantages[:, None] * rollouts.mask.to(dtype)


def smallest_spread(rollouts: Rollouts, std_floor: float) -> torch.Tensor:
    """The smallest number that a group's process rewards are divided by: s_floor, or 1/√n where none of n rollouts is right.

    1/√n is the standard deviation that the outcomes would have if one of them were right. Where all are wrong, differences
    in J are mostly its error; divided by their own spread, they would move the policy as far as outcomes do. With this
    bound a difference in J counts as much as the same difference in the outcome would, and no more.

    Args:
        rollouts: checked rollouts; see `check_rollouts`.
        std_floor: s_floor > 0, in units of J.

    Returns:
        [G] divisors, in units of J, float64.

    Example:
        >>> from l2t_verl.credit.inputs import check_rollouts
        >>> ids, group = torch.zeros(4, 2, dtype=torch.int64), np.array(["a"] * 4, dtype=object)
        >>> wrong = check_rollouts(torch.zeros(4), torch.zeros(4, 1), ids, torch.ones(4, 2), torch.zeros(4, 2), group)
        >>> smallest_spread(wrong, 0.05)
        tensor([0.5000], dtype=torch.float64)
    """
    one_right = rollouts.sessions_per_group().clamp_min(1.0).rsqrt()
    return torch.where(none_is_right(rollouts), one_right, 0.0).clamp_min(std_floor)


def none_is_right(rollouts: Rollouts) -> torch.Tensor:
    """[G] whether a group has no right rollout."""
    return rollouts.per_group_once(rollouts.right) == 0


def spare_wrong_groups(rollouts: Rollouts, cost: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Process rewards without the penalty where no rollout of the group is right: g in place of g − βC.

    The penalty is what an episode may cost on the way to a right answer. Where there is none, gains are small and costs,
    which have no bound, are nearly all that tells rollouts apart: the policy would learn to have no episodes.

    Args:
        rollouts: checked rollouts, with the rewards g − βC; see `check_rollouts`.
        cost: [B, K] βC, in units of J.

    Returns:
        [B, K] process rewards, in units of J, float64, and [B] which rows are spared.

    Example:
        >>> from l2t_verl.credit.inputs import check_rollouts
        >>> ids, group = torch.zeros(4, 1, dtype=torch.int64), np.array(["a", "a", "b", "b"], dtype=object)
        >>> outcome, process = torch.tensor([0.0, 0.0, 1.0, 0.0]), torch.full((4, 1), -0.25)
        >>> rollouts = check_rollouts(outcome, process, ids, torch.ones(4, 1), torch.zeros(4, 1), group)
        >>> process, spared = spare_wrong_groups(rollouts, torch.full((4, 1), 0.5))
        >>> process.flatten()
        tensor([ 0.2500,  0.2500, -0.2500, -0.2500], dtype=torch.float64)
        >>> spared
        tensor([ True,  True, False, False])
    """
    spared = none_is_right(rollouts)[rollouts.group]
    process = rollouts.process.double()
    return torch.where(spared[:, None], process + cost.double(), process), spared
