"""What to do, from the figures and from what trainings have shown so far."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from l2t_verl.preflight.figures import Estimate, Outcomes, Sight

SILENT = 0.1  # share of mixed groups below which the outcome tells a group's rollouts hardly apart
CHANCE = 0.5
ENOUGH = 30  # questions, from which on an interval that holds chance says that J sees nothing


class Advice(Enum):
    """What to train with; the value is the exit status."""

    L2T = 0
    LENGTH_PENALTY = 3
    GRPO = 4
    OTHER_DATA = 5


@dataclass(frozen=True)
class Verdict:
    """An advice and what it rests on.

    Attributes:
        advice: what to train with first.
        headline: the same in a sentence.
        reasons: each a sentence with the figure that it rests on.
        sure: how sure one can be, in a sentence.
        settings: overrides of verl's command line.
    """

    advice: Advice
    headline: str
    reasons: tuple[str, ...]
    sure: str
    settings: tuple[str, ...]


def verdict(outcomes: Outcomes, sight: Sight) -> Verdict:
    """Advise.

    Outcomes in fewer than a tenth of the groups leave GRPO little to learn from; J is blind where it does not rise before
    the answer is stated, or where gains do not tell own steps from needless ones before it (the interval holds chance).

    Args:
        outcomes: what the outcome tells.
        sight: what J tells.
    """
    sees = sees_before(sight)
    reasons = [
        f"{outcomes.mixed:.0%} of the groups hold right and wrong responses, {outcomes.all_right:.0%} are all right, "
        f"{outcomes.all_wrong:.0%} all wrong: GRPO learns from the first alone",
        f"before the answer is stated, J rises by {sight.rise:.3f}"
        + ("" if math.isnan(sight.noise) else f"; a needless step moves it by {sight.noise:.3f} (standard deviation)"),
        f"before the answer is stated, a step's gain is above a needless one's in {sight.useful_before:.2f} of the pairs; "
        f"{CHANCE} is chance",
        f"{sight.redundant:.0%} of a right response's reasoning comes after the answer was stated",
    ]
    if outcomes.mixed < SILENT and outcomes.all_right >= outcomes.all_wrong:
        return Verdict(
            Advice.OTHER_DATA,
            "Take harder questions: the model is nearly always right on these, and no reward here has anything to teach.",
            tuple(reasons),
            "Sure, as far as these questions are like those that you train on.",
            (),
        )
    if outcomes.mixed < SILENT and not sees:
        return Verdict(
            Advice.OTHER_DATA,
            "Take easier questions, or fine-tune first: the outcome is silent here, and J does not see progress either.",
            tuple(reasons),
            f"Sure that GRPO learns next to nothing here. {_blind(sight)}",
            (),
        )
    if outcomes.mixed < SILENT:
        return Verdict(
            Advice.L2T,
            "Try L2T: the outcome is silent in nearly all groups, and J sees progress in them. Train GRPO beside it.",
            tuple(reasons),
            "Not sure: where right answers were rare, L2T moved in the right direction and was not told apart from GRPO.",
            ("algorithm.adv_estimator=l2t",),
        )
    if not sees:
        return Verdict(
            Advice.GRPO,
            "Take GRPO, or a length penalty for shorter responses: J sees no progress before the answer is stated.",
            tuple(reasons),
            _blind(sight),
            ("algorithm.adv_estimator=grpo",),
        )
    return Verdict(
        Advice.LENGTH_PENALTY,
        "Take a length penalty for shorter responses, GRPO for nothing but accuracy; L2T has something to go by here, but "
        "has not been shown to beat them.",
        tuple(reasons),
        "As sure as small models over a few starts can make it; nothing has been trained at your size.",
        ("algorithm.adv_estimator=l2t", "+algorithm.l2t.credit.method=length_penalty", "+algorithm.l2t.beta=0"),
    )


def sees_before(sight: Sight) -> bool:
    """Whether J tells something before the answer is stated: it rises, and gains tell own steps from needless ones."""
    return _above(sight.rise, 0.0) and _above(sight.useful_before, CHANCE)


def _blind(sight: Sight) -> str:
    """How sure it is that J sees nothing."""
    fewest = min(sight.rise.of, sight.useful_before.of)
    if fewest < ENOUGH:
        return (
            f"Not sure that J sees nothing: that is from {fewest} questions, and {ENOUGH} are needed; "
            "take more --questions, or more --minutes."
        )
    return "Sure that J, as it is configured, has little to pay steps by here; another way to look may see more (see below)."


def _above(estimate: Estimate, level: float) -> bool:
    """Whether an interval lies above a level; without an interval nothing is known."""
    return not math.isnan(estimate.low) and estimate.low > level
