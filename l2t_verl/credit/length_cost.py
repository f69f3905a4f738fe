"""The length cost as the multiplier of a token budget."""

from __future__ import annotations

from dataclasses import dataclass

DAMPING = 10.0  # steps of dual ascent that the latest excess counts as


@dataclass(frozen=True)
class LengthCost:
    """λ of a step, and the multiplier that it is made of.

    Attributes:
        multiplier: μ ≥ 0, which dual ascent adds up, in units of λ.
        value: λ ≥ 0, in units of the advantage.
    """

    multiplier: float
    value: float

    @classmethod
    def fixed(cls, value: float) -> LengthCost:
        """What a run begins with, and keeps where there is no budget."""
        return cls(value, value)


def update_length_cost(cost: LengthCost, mean_correct_tokens: float | None, token_budget: float, rate: float) -> LengthCost:
    r"""One step of damped dual ascent for the constraint E|z| ≤ B (arXiv 2505.10425, Eq. 2).

    With the relative excess e = (mean tokens of correct rollouts) / B − 1,

        μ ← max(0, μ + η e),  λ = max(0, μ + 10 η e).

    λ changes how fast responses become shorter, not how long they are. Used alone, μ therefore goes on rising until the
    budget has been passed, and overshoots. The second term, that of an augmented Lagrangian, falls as soon as the excess
    does. The paper states the constraint and does not enforce it.

    Args:
        cost: λ and μ of the step that has ended.
        mean_correct_tokens: mean length of the step's correct rollouts, in tokens; None leaves the cost as it is.
        token_budget: B, in tokens.
        rate: η, in units of λ.

    Returns:
        λ and μ of the next step.

    Example:
        >>> update_length_cost(LengthCost.fixed(0.5), 1250.0, 1000.0, 0.1)
        LengthCost(multiplier=0.525, value=0.775)
        >>> update_length_cost(LengthCost.fixed(0.01), 100.0, 1000.0, 0.1)
        LengthCost(multiplier=0.0, value=0.0)
    """
    if mean_correct_tokens is None:
        return cost
    step = rate * (mean_correct_tokens / token_budget - 1.0)
    multiplier = max(0.0, cost.multiplier + step)
    return LengthCost(multiplier, max(0.0, multiplier + DAMPING * step))
