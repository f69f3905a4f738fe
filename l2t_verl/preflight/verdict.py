"""What to do, from the figures and from what trainings have shown so far."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from l2t_verl.preflight.figures import Estimate, Outcomes, Sight

SILENT = 0.2  # share of mixed groups below which the outcome tells a group's rollouts hardly apart
EASY = 0.9  # share of groups that are all right, from which on questions are too easy
CHANCE = 0.5  # of own steps that gain more
ENOUGH = 30  # questions, from which on a figure counts
L2T_SETTINGS = (
    "algorithm.adv_estimator=l2t",
    "+algorithm.l2t.credit.method=guided",
    "+algorithm.l2t.gain.kind=smoothed_logprob",
)
PENALTY_SETTINGS = (
    "algorithm.adv_estimator=l2t",
    "+algorithm.l2t.credit.method=length_penalty",
    "+algorithm.l2t.credit.length_penalty=0.6",
    "+algorithm.l2t.beta=0",
)


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
    settings: tuple[str, ...] = ()


def verdict(outcomes: Outcomes, sight: Sight) -> Verdict:
    """Advise.

    Where fewer than a fifth of the groups are mixed, GRPO has little to learn from. J sees progress if, over 30 questions or
    more, it rises before the answer is stated, and own steps gain more than needless ones there (both intervals say so).

    Args:
        outcomes: what the outcome tells.
        sight: what J tells.
    """
    reasons, silent, sees = _reasons(outcomes, sight), outcomes.mixed < SILENT, sees_before(sight)
    groups = f"groups of {outcomes.per_group:.2g}"
    few = f"Not sure: that is from {outcomes.groups} questions. " if outcomes.groups < ENOUGH else ""
    if outcomes.all_right >= EASY:
        return Verdict(
            Advice.OTHER_DATA,
            "Take harder questions: the model is nearly always right on these. A length penalty can still make it shorter.",
            reasons,
            few or f"Sure of the {groups} that were seen.",
            PENALTY_SETTINGS,
        )
    if silent and sees:
        return Verdict(
            Advice.L2T,
            "Try L2T: the outcome tells few groups' responses apart, and J sees progress in them. Train GRPO beside it.",
            reasons,
            f"{few}Not sure: where right answers were rare and J saw progress, these settings ended far above GRPO and "
            f"above the length penalty, with one small model; and larger groups than these {groups} are mixed more often.",
            L2T_SETTINGS,
        )
    if silent:
        return Verdict(
            Advice.OTHER_DATA,
            "Take other questions, or fine-tune first: the outcome tells few groups' responses apart, and of J it is not "
            "shown that it sees progress.",
            reasons,
            f"{few}Larger groups than these {groups} are mixed more often. {_blind(sight)}",
        )
    if not sees:
        return Verdict(
            Advice.GRPO,
            "Take GRPO, or a length penalty for shorter responses: it is not shown that J sees progress before the answer "
            "is stated.",
            reasons,
            few + _blind(sight),
            ("algorithm.adv_estimator=grpo",),
        )
    return Verdict(
        Advice.LENGTH_PENALTY,
        "Take a length penalty for shorter responses, GRPO for nothing but accuracy; L2T has something to go by here, but "
        "has not been shown to beat them.",
        reasons,
        few + "As sure as small models over a few starts can make it; nothing has been trained at your size.",
        PENALTY_SETTINGS,
    )


def sees_before(sight: Sight) -> bool:
    """Whether J tells something before the answer is stated: it rises, and own steps gain more than needless ones."""
    return _above(sight.rise, 0.0) and _above(sight.useful_before, CHANCE)


def _reasons(outcomes: Outcomes, sight: Sight) -> tuple[str, ...]:
    found = [
        f"{outcomes.mixed:.0%} of the groups hold right and wrong responses, {outcomes.all_right:.0%} are all right, "
        f"{outcomes.all_wrong:.0%} all wrong: GRPO learns from the first alone"
    ]
    if not math.isnan(sight.rise.value):
        found.append(f"what J has risen by before the answer is stated: {sight.rise:.3f}")
    if not math.isnan(sight.useful_before.value):
        found.append(
            f"before the answer is stated, a step gains more than a needless one in its place in {sight.useful_before:.0%} "
            f"of the places; {CHANCE:.0%} is chance"
        )
    if not math.isnan(sight.redundant.value):
        found.append(f"{sight.redundant:.0%} of a right response's reasoning comes after the answer was stated")
    return tuple(found)


def _blind(sight: Sight) -> str:
    """How sure one can be that a J which sees nothing is of no use."""
    fewest = min(sight.rise.of, sight.useful_before.of)
    if fewest < ENOUGH:
        return (
            f"Of J not sure: only {fewest} questions have a right response that states its answer after other steps, and "
            f"{ENOUGH} are needed; take more --questions or --minutes, or see whether answers are stated in another form."
        )
    return (
        "Of J not sure: in the controlled comparison what J saw beforehand did not foretell what its credits came to (own "
        "gain ended above GRPO on two starts of four, on one of which J saw nothing). Another way to look may see more."
    )


def _above(estimate: Estimate, level: float) -> bool:
    """Whether an interval lies above a level, from enough questions."""
    return estimate.of >= ENOUGH and estimate.low > level
