"""Derivatives of log-probs along a displacement of the weights: what Eq. 4's Fisher form is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch

OVERSAMPLING = 8  # columns that the randomised decomposition tries beyond the rank
POWER_ITERATIONS = 4
SMALL = 256  # rows or columns up to which the whole decomposition is as fast


def low_rank(matrix: torch.Tensor, rank_fraction: float) -> torch.Tensor:
    r"""The best approximation U_r Σ_r V_rᵀ of a matrix by one of rank r = max(1, round(rank_fraction · min(m, n))).

    By torch's SVD where the rank is more than a quarter of the full one or the matrix is small, else by its randomised SVD
    with a fixed seed. A vector is its own approximation.

    Args:
        matrix: [m, n] or [n].
        rank_fraction: share of the full rank, in (0, 1].

    Returns:
        The approximation, in the matrix's shape and type.

    Raises:
        ValueError: more than two axes, or a fraction out of bounds.

    Example:
        >>> low_rank(torch.diag(torch.tensor([3.0, 1.0])), 0.5)
        tensor([[3., 0.],
                [0., 0.]])
    """
    if not 0 < rank_fraction <= 1:
        raise ValueError(f"rank_fraction must be in (0, 1], got {rank_fraction}")
    if matrix.ndim > 2:
        raise ValueError(f"a matrix or a vector is needed, got shape {tuple(matrix.shape)}")
    if matrix.ndim < 2 or rank_fraction == 1.0:
        return matrix.clone()
    smaller = min(matrix.shape)
    rank = max(1, round(rank_fraction * smaller))
    values = matrix.float() if matrix.dtype in (torch.float16, torch.bfloat16) else matrix
    if smaller <= SMALL or rank > smaller // 4:
        left, sizes, right = torch.linalg.svd(values, full_matrices=False)
        right = right.mH
    else:
        devices = [matrix.device] if matrix.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            left, sizes, right = torch.svd_lowrank(values, q=min(rank + OVERSAMPLING, smaller), niter=POWER_ITERATIONS)
    low: torch.Tensor = (left[:, :rank] * sizes[:rank]) @ right[:, :rank].mH
    return low.to(matrix)


@contextmanager
def shifted(
    parameters: Mapping[str, torch.Tensor], displacement: Mapping[str, torch.Tensor], scale: float
) -> Iterator[None]:
    """Shift the weights to θ + scale · Δθ inside the block, and put them back afterwards, bit for bit, even after an error.

    Args:
        parameters: tensors that are changed in place.
        displacement: for some or all of them, Δθ of the same shape, on any device.
        scale: its factor.

    Raises:
        KeyError: `displacement` names something that is not among the parameters.

    Example:
        >>> weight = torch.tensor([2.0])
        >>> with shifted({"w": weight}, {"w": torch.tensor([3.0])}, 0.5):
        ...     print(weight)
        tensor([3.5000])
        >>> weight
        tensor([2.])
    """
    missing = [name for name in displacement if name not in parameters]
    if missing:
        raise KeyError(f"no parameters of the names {', '.join(missing)}")
    saved = {name: parameters[name].detach().to("cpu", copy=True) for name in displacement}  # a GPU may have no room
    try:
        with torch.no_grad():
            for name, delta in displacement.items():
                parameters[name].add_(delta.to(parameters[name]), alpha=scale)
        yield
    finally:
        with torch.no_grad():
            for name, value in saved.items():
                parameters[name].copy_(value)


def directional_derivatives(
    log_probs: Callable[[], torch.Tensor], shift: Callable[[float], AbstractContextManager[None]], epsilon: float
) -> torch.Tensor:
    r"""Derivatives d_t = ∂_ε log π_{θ+εΔθ}(y_t) at ε = 0, of all tokens at once, by a central difference of two passes.

    Args:
        log_probs: computes log-probs in nats under the current weights.
        shift: a context manager that shifts the weights by the given multiple of Δθ, such as `shifted`.
        epsilon: the multiple; the method's error grows with its square, and rounding errors are divided by it.

    Returns:
        d_t in nats, float64, in the shape of the log-probs.

    Raises:
        ValueError: epsilon is not positive.

    Example:
        >>> weight = torch.tensor([2.0], dtype=torch.float64)
        >>> shift = lambda scale: shifted({"w": weight}, {"w": torch.tensor([3.0])}, scale)
        >>> directional_derivatives(lambda: weight**2, shift, 1e-4).round(decimals=6), weight
        (tensor([12.], dtype=torch.float64), tensor([2.], dtype=torch.float64))
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    with shift(epsilon):
        above = log_probs()
    with shift(-epsilon):
        below = log_probs()
    return (above.double() - below.double()) / (2 * epsilon)


def exact_derivatives(
    log_prob: Callable[[int], torch.Tensor],
    parameters: Mapping[str, torch.Tensor],
    displacement: Mapping[str, torch.Tensor],
    num_episodes: int,
) -> torch.Tensor:
    r"""Derivatives d_k = ⟨Δθ, ∇ log π(z_k | s_k)⟩ by one gradient for each episode; exact, and affordable for small models.

    Args:
        log_prob: gives log π(z_k | s_k) of episode k in nats, as a tensor that can be differentiated.
        parameters: tensors that require gradients; their `.grad` is not touched.
        displacement: for some or all of them, Δθ of the same shape.
        num_episodes: K.

    Returns:
        [K] in nats, float64.

    Example:
        >>> weight = torch.tensor([2.0], requires_grad=True)
        >>> exact_derivatives(lambda k: (k + 1) * weight**2, {"w": weight}, {"w": torch.tensor([3.0])}, 2)
        tensor([12., 24.], dtype=torch.float64)
    """
    names = list(displacement)
    found = torch.zeros(num_episodes, dtype=torch.float64)
    for k in range(num_episodes):
        gradients = torch.autograd.grad(log_prob(k), [parameters[name] for name in names], allow_unused=True)
        found[k] = sum(
            (gradient.double() * displacement[name].to(gradient.device).double()).sum().item()
            for name, gradient in zip(names, gradients, strict=True)
            if gradient is not None
        )
    return found


def derivative_penalty(derivatives: torch.Tensor, *, damping: float = 0.0, squared_norm: float = 0.0) -> torch.Tensor:
    r"""Penalty C_k = ½ d_k² + ½ λ ‖Δθ̃‖² in nats (arXiv 2505.10425, Eq. 4 with Fisher damping; the paper has no ½).

    Args:
        derivatives: [..., K] d_k in nats.
        damping: λ.
        squared_norm: ‖Δθ̃‖².

    Returns:
        [..., K] penalties in nats, float64.

    Example:
        >>> derivative_penalty(torch.tensor([2.0, -1.0]), damping=0.5, squared_norm=4.0)
        tensor([3.0000, 1.5000], dtype=torch.float64)
    """
    return 0.5 * derivatives.double().square() + 0.5 * damping * squared_norm
