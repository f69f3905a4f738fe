"""From answer scores to gains."""

from __future__ import annotations

import torch


def fitting_gains(scores: torch.Tensor) -> torch.Tensor:
    r"""Fitting gain of each episode, g_k = J_k − J_{k−1} (arXiv 2505.10425, Eq. 3, first term).

    The gains telescope: Σ_k g_k = J_K − J_0. Rows with fewer than K episodes are padded with their last score, so that
    the gains of the padding are 0.

    Args:
        scores: [..., K+1] answer scores J_0 … J_K, in the unit of J's kind.

    Returns:
        [..., K] gains, in the same unit.

    Raises:
        ValueError: `scores` has no J_0.

    Example:
        >>> fitting_gains(torch.tensor([[0.25, 0.5, 0.375], [0.5, 0.75, 0.75]]))
        tensor([[ 0.2500, -0.1250],
                [ 0.2500,  0.0000]])
    """
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise ValueError(f"scores must hold J_0 … J_K in the last axis, got shape {tuple(scores.shape)}")
    return scores[..., 1:] - scores[..., :-1]


def best_of_answers(scores: torch.Tensor) -> torch.Tensor:
    """J_k where several answers are accepted: the largest of their scores at each k.

    The maximum is a function of the prefix alone, so gains of it telescope too.

    Args:
        scores: [N, K+1] scores of N ≥ 1 accepted answers.

    Returns:
        [K+1] the largest at each k.

    Raises:
        ValueError: there is no answer.

    Example:
        >>> best_of_answers(torch.tensor([[0.25, 0.5], [0.125, 0.75]]))
        tensor([0.2500, 0.7500])
    """
    if scores.ndim != 2 or scores.shape[0] == 0:
        raise ValueError(f"scores must be [answers, K+1] with at least one answer, got shape {tuple(scores.shape)}")
    return scores.max(dim=0).values
