"""Gain and penalty together."""

from __future__ import annotations

import torch


def process_rewards(gains: torch.Tensor, penalties: torch.Tensor, beta: float) -> torch.Tensor:
    r"""Process rewards r^prg_k = g_k − β C_k (arXiv 2505.10425, Eq. 3 and 4).

    Args:
        gains: [B, K] fitting gains, in units of J.
        penalties: [B, K] compression penalties, in nats.
        beta: β, in units of J per nat.

    Returns:
        [B, K] process rewards, in units of J, float64.

    Raises:
        ValueError: shapes differ.

    Example:
        >>> process_rewards(torch.tensor([[0.5]]), torch.tensor([[0.25]]), beta=1.0)
        tensor([[0.2500]], dtype=torch.float64)
    """
    if gains.shape != penalties.shape:
        raise ValueError(f"gains {tuple(gains.shape)} and penalties {tuple(penalties.shape)} must have one shape")
    return gains.double() - beta * penalties.double()


def relative_weight(gains: torch.Tensor, penalties: torch.Tensor, beta: float) -> torch.Tensor:
    """The penalty's share of each process reward, |βC| / (|g| + |βC|).

    Args:
        gains: [...] fitting gains, in units of J.
        penalties: [...] compression penalties, in nats.
        beta: β, in units of J per nat.

    Returns:
        [...] shares in [0, 1], float64; 0 where gain and penalty are both 0.

    Example:
        >>> relative_weight(torch.tensor([0.5, 0.0]), torch.tensor([0.5, 0.0]), beta=1.0)
        tensor([0.5000, 0.0000], dtype=torch.float64)
    """
    cost = (beta * penalties).abs().double()
    whole = gains.abs().double() + cost
    return torch.where(whole > 0, cost / whole.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
