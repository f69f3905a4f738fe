"""The plainest length penalty that L2T is compared with: a response that is too long is wrong."""

from __future__ import annotations

import numpy as np
import torch

from l2t_verl.credit.groups import outcome_advantages
from l2t_verl.credit.inputs import check_rollouts, share_of, to_precision

EPSILON = 1e-8  # beside the variance, as in verl's `masked_whiten`


def truncation_advantages(
    outcome: torch.Tensor,
    process: torch.Tensor,
    episode_ids: torch.Tensor,
    response_mask: torch.Tensor,
    old_log_probs: torch.Tensor,
    index: np.ndarray,
    *,
    length_share: float,
    max_length: int,
    session: np.ndarray | None = None,
) -> torch.Tensor:
    r"""A_{i,t} = (a_i − mean a) / std a, a_i = r_i − mean r of the group, r_i = r^out_i [T_i ≤ sL] (DLER, arXiv 2510.15110).

    A wrong response earns what it earned, however long it is: a grader may have it below 0. Mean and (unbiased) standard
    deviation of a are taken over the tokens of the whole batch, as verl's `reinforce_plus_plus_baseline` takes them:
    groups are not divided by their own spread, and one whose rollouts are all alike gets −mean a / std a, which is not 0
    where lengths differ. DLER draws such groups again (dynamic sampling), which this trainer does not, and cuts
    responses at sL; here they are sampled to their end, and the tokens behind sL learn and count.
    `data.max_response_length` set to sL, and s to 1, is nearer.

    Args:
        outcome: [B] outcome rewards.
        process: [B, K] not used; all credits take the same arguments.
        episode_ids: [B, T] not used.
        response_mask: [B, T] 1 for sampled tokens; T_i counts them.
        old_log_probs: [B, T] not used.
        index: [B] NumPy object array, the group of each row.
        length_share: s in (0, 1]; at 1 no response is too long.
        max_length: L, the longest response allowed, in tokens.
        session: see `outcome_advantages`; the rows of one session are one rollout, whose last row carries the outcome.

    Returns:
        [B, T] advantages, 0 outside the mask, in the precision of `outcome`.

    Raises:
        ValueError: see `check_rollouts` and `share_of`.

    Example:
        >>> truncation_advantages(
        ...     torch.tensor([1.0, 1.0]), torch.zeros(2, 0), torch.full((2, 3), -1), torch.tensor([[1.0, 0, 0], [1, 1, 1]]),
        ...     torch.zeros(2, 3), np.array(["a", "a"], dtype=object), length_share=0.5, max_length=4)
        tensor([[ 1.5000,  0.0000,  0.0000],
                [-0.5000, -0.5000, -0.5000]])
    """
    rollouts = check_rollouts(outcome, process, episode_ids, response_mask, old_log_probs, index, session)
    kept = rollouts.length <= share_of(max_length, length_share)
    rewards = to_precision(torch.where(kept, rollouts.final_outcome, rollouts.final_outcome.clamp_max(0)), outcome.dtype)
    centred = outcome_advantages(rewards, index, norm_by_std=False, session=session).double()
    tokens = rollouts.counts.sum(dim=1)
    count = tokens.sum().clamp_min(1.0)
    centred = centred - (centred * tokens).sum() / count
    variance = (centred.square() * tokens).sum() / (count - 1).clamp_min(1.0)
    return to_precision((centred * torch.rsqrt(variance + EPSILON))[:, None] * rollouts.mask, outcome.dtype)
