"""GRPO's group-normalised outcome, to the last bit of verl's."""

from __future__ import annotations

import numpy as np
import torch

from l2t_verl.credit.inputs import number_groups


def outcome_advantages(
    outcome: torch.Tensor,
    index: np.ndarray,
    *,
    norm_by_std: bool = True,
    epsilon: float = 1e-6,
    session: np.ndarray | None = None,
) -> torch.Tensor:
    r"""Â^out_i = (r_i − mean_group) / (std_group + ε), as GRPO (arXiv 2402.03300) and verl compute it.

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
    if session is not None:
        number, count = number_groups(session)
        last = torch.zeros(count, dtype=torch.int64)
        last[number] = torch.arange(len(number))  # later rows overwrite earlier ones
        final = outcome_advantages(outcome[last], index[last.numpy()], norm_by_std=norm_by_std, epsilon=epsilon)
        return final[number]
    group, num_groups = number_groups(index)
    mean = torch.zeros(num_groups, dtype=outcome.dtype)
    std = torch.ones(num_groups, dtype=outcome.dtype)
    sizes = torch.bincount(group, minlength=num_groups)
    order = torch.argsort(group, stable=True)
    starts = sizes.cumsum(0) - sizes
    for size in sizes[sizes > 1].unique().tolist():  # groups of one size are the rows of one matrix
        chosen = (sizes == size).nonzero().flatten()
        values = outcome[order[starts[chosen, None] + torch.arange(size)]]
        mean[chosen], std[chosen] = values.mean(dim=1), values.std(dim=1)
    centred = outcome - mean[group]
    return centred / (std[group] + epsilon) if norm_by_std else centred
