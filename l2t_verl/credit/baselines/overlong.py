"""A third length penalty that L2T is compared with: a response pays only for what it is longer than a bound."""

from __future__ import annotations

import numpy as np
import torch

from l2t_verl.credit.groups import advantages_of_rewards
from l2t_verl.credit.inputs import check_rollouts, share_of

PUNISHMENT = 0.5  # as published: 1, where outcomes are 1 and −1


def overlong_advantages(
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
    r"""GRPO's advantages of r_i = r^out_i − ½ min(1, max(0, T_i − sL) / (L − sL)) (DAPO, arXiv 2503.14476).

    The "soft overlong punishment": up to sL tokens cost nothing; from there it grows to half of what is between right (1)
    and wrong (0) at the longest response, as it does in the paper, whose outcomes are 1 and −1 and whose punishment ends at
    1. Right and wrong responses are punished alike. DAPO's 16,384 of 20,480 tokens are s = 0.8; its other parts are verl's
    own settings, and so is this one (`reward_manager.name=dapo`), there with verl's grading.

    Args:
        outcome: [B] outcome rewards.
        process: [B, K] not used; all credits take the same arguments.
        episode_ids: [B, T] not used.
        response_mask: [B, T] 1 for sampled tokens; T_i counts them.
        old_log_probs: [B, T] not used.
        index: [B] NumPy object array, the group of each row.
        length_share: s in (0, 1]; at 1 only a session of several rows can be punished.
        max_length: L, the longest response allowed, in tokens.
        norm_by_std: verl's `norm_adv_by_std_in_grpo`.
        session: see `outcome_advantages`; the rows of one session are one rollout, whose last row carries the outcome.

    Returns:
        [B, T] advantages, 0 outside the mask, in the precision of `outcome`.

    Raises:
        ValueError: see `check_rollouts` and `share_of`.

    Example:
        >>> overlong_advantages(
        ...     torch.ones(2), torch.zeros(2, 0), torch.full((2, 4), -1), torch.tensor([[1.0, 1, 0, 0], [1, 1, 1, 1]]),
        ...     torch.zeros(2, 4), np.array(["a", "a"], dtype=object), length_share=0.5, max_length=4, norm_by_std=False)
        tensor([[ 0.2500,  0.2500,  0.0000,  0.0000],
                [-0.2500, -0.2500, -0.2500, -0.2500]])
    """
    rollouts = check_rollouts(outcome, process, episode_ids, response_mask, old_log_probs, index, session)
    free = share_of(max_length, length_share)
    beyond = ((rollouts.length - free) / max(max_length - free, 1e-300)).clamp(0, 1)
    rewards = rollouts.final_outcome - PUNISHMENT * beyond
    return advantages_of_rewards(rollouts, rewards, index, norm_by_std=norm_by_std, session=session, dtype=outcome.dtype)
