"""Logistic regression with a ridge, by Newton's method: few features, many rows, the same result every time."""

from __future__ import annotations

import torch

MOST_STEPS = 50
MOST_HALVINGS = 30
CONVERGED = 1e-8  # largest change of a weight


def fit_logistic(states: torch.Tensor, outcomes: torch.Tensor, prior: torch.Tensor, ridge: float) -> torch.Tensor:
    r"""Find w = argmin Σ_n [log(1 + e^{z_n}) − y_n z_n] + ½ρ ‖w − w_0‖² with z_n = w · x_n, in float64.

    The ridge draws towards a prior, so that no rows give the prior itself, and rows that say little leave it nearly as it
    is. Newton's steps are halved until the sum falls, so that separable rows do no harm.

    Args:
        states: [N, F] features x.
        outcomes: [N] y in [0, 1]; shares are as good as 0 and 1.
        prior: [F] w_0.
        ridge: ρ > 0.

    Returns:
        [F] weights.

    Raises:
        ValueError: ρ ≤ 0, shapes that do not fit together, or an outcome outside [0, 1].

    Example:
        >>> x, y = torch.ones(4, 1), torch.tensor([1.0, 1.0, 1.0, 0.0])
        >>> torch.sigmoid(fit_logistic(x, y, torch.zeros(1), 1e-6)).round(decimals=3)  # a constant alone learns the mean
        tensor([0.7500], dtype=torch.float64)
    """
    if not ridge > 0:
        raise ValueError(f"ridge must be above 0, got {ridge}")
    if states.ndim != 2 or outcomes.shape != states.shape[:1] or prior.shape != states.shape[1:]:
        raise ValueError(
            f"states must be [N, F], outcomes [N], prior [F]; got {list(states.shape)}, {list(outcomes.shape)}, "
            f"{list(prior.shape)}"
        )
    if len(outcomes) and not 0 <= outcomes.min() <= outcomes.max() <= 1:
        raise ValueError(f"outcomes must lie in [0, 1]; got {outcomes.min().item()} … {outcomes.max().item()}")
    x, y, start = states.double(), outcomes.double(), prior.double()
    identity = torch.eye(len(start), dtype=torch.float64)

    def loss(w: torch.Tensor) -> float:
        z = x @ w
        return (torch.nn.functional.softplus(z) - y * z).sum().item() + 0.5 * ridge * (w - start).square().sum().item()

    w, value = start, loss(start)
    for _ in range(MOST_STEPS):
        p = torch.sigmoid(x @ w)
        gradient = x.T @ (p - y) + ridge * (w - start)
        step = torch.linalg.solve((x.T * (p * (1 - p))) @ x + ridge * identity, gradient)
        for _ in range(MOST_HALVINGS):
            if (lower := loss(w - step)) <= value:
                break
            step = step / 2
        else:
            return w  # rounding alone is left
        w, value = w - step, lower
        if step.abs().max() < CONVERGED:
            break
    return w
