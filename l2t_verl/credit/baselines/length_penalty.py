"""The length penalty that L2T is compared with: among a group's correct rollouts, the longer one earns less."""

from __future__ import annotations

import numpy as np
import torch

from l2t_verl.credit.inputs import check_rollouts, to_precision


def length_penalty_advantages(
    outcome: torch.Tensor,
    process: torch.Tensor,
    episode_ids: torch.Tensor,
    response_mask: torch.Tensor,
    old_log_probs: torch.Tensor,
    index: np.ndarray,
    *,
    length_penalty: float,
    session: np.ndarray | None = None,
) -> torch.Tensor:
    r"""Token advantages A_{i,t} = r_i − mean_{j≠i} r_j with r_i = r^out_i (1 − α σ((T_i − m) / s)) (arXiv 2502.04463).

    m and s are the mean and the (population) standard deviation of the lengths of the group's correct rollouts, those with
    r^out > 0; where they do not differ in length, s = 0, each has σ(0) = ½. The baseline is the mean of the group's other
    rollouts, as published; GRPO's division by the group's standard deviation would cancel α wherever all are correct.

    Args:
        outcome: [B] outcome rewards.
        process: [B, K] not used; all credits take the same arguments.
        episode_ids: [B, T] not used.
        response_mask: [B, T] 1 for sampled tokens; T_i counts them.
        old_log_probs: [B, T] not used.
        index: [B] NumPy object array, the group of each row.
        length_penalty: α in [0, 1).
        session: see `outcome_advantages`; the rows of one session are one rollout, whose last row carries the outcome.

    Returns:
        [B, T] advantages, 0 outside the mask, in the precision of `outcome`; a group of one has the baseline 0.

    Raises:
        ValueError: see `check_rollouts`; or α outside [0, 1).

    Example:
        >>> length_penalty_advantages(
        ...     torch.tensor([1.0, 0.0]), torch.zeros(2, 0), torch.full((2, 2), -1), torch.ones(2, 2), torch.zeros(2, 2),
        ...     np.array(["a", "a"], dtype=object), length_penalty=0.5)
        tensor([[ 0.7500,  0.7500],
                [-0.7500, -0.7500]])
    """
    if not 0 <= length_penalty < 1:
        raise ValueError(f"length_penalty must be at least 0 and below 1, got {length_penalty}")
    rollouts = check_rollouts(outcome, process, episode_ids, response_mask, old_log_probs, index, session)
    group, right = rollouts.group, rollouts.right
    lengths = rollouts.length
    count = rollouts.per_group_once(right).clamp_min(1.0)[group]
    distance = lengths - rollouts.per_group_once(right * lengths)[group] / count
    std = (rollouts.per_group_once(right * distance.square())[group] / count).sqrt()
    relative = torch.where(std > 0, distance / std.clamp_min(1e-300), 0.0)
    rewards = rollouts.final_outcome * (1 - length_penalty * right * torch.sigmoid(relative))
    others = rollouts.sessions_per_group()[group] - 1
    baseline = torch.where(others > 0, (rollouts.per_group_once(rewards)[group] - rewards) / others.clamp_min(1.0), 0.0)
    return to_precision((rewards - baseline)[:, None] * rollouts.mask, outcome.dtype)
