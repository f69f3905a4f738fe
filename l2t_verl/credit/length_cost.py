"""The length cost as the multiplier of a token budget."""

from __future__ import annotations


def update_length_cost(length_cost: float, mean_correct_tokens: float | None, token_budget: float, rate: float) -> float:
    r"""One step of dual ascent, λ ← max(0, λ + η (mean tokens of correct rollouts / B − 1)).

    λ is the multiplier of the constraint E|z| ≤ B (arXiv 2505.10425, Eq. 2), which the paper states and does not enforce.

    Args:
        length_cost: λ, in units of the advantage.
        mean_correct_tokens: mean length of the step's correct rollouts, in tokens; None leaves λ as it is.
        token_budget: B, in tokens.
        rate: η, in units of λ.

    Example:
        >>> update_length_cost(0.5, 1500.0, 1000.0, 0.1), update_length_cost(0.01, 100.0, 1000.0, 0.1)
        (0.55, 0.0)
    """
    if mean_correct_tokens is None:
        return length_cost
    return max(0.0, length_cost + rate * (mean_correct_tokens / token_budget - 1.0))
