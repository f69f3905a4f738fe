"""What responses in their groups say in numbers, each with a 95 % interval over questions where it has one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from l2t_verl.credit.calibration import auc
from l2t_verl.evaluate.statistics import bootstrap
from l2t_verl.preflight.seen import NOWHERE, Seen

RESAMPLES = 1000
Way = tuple[str, str, str]  # segmenter, suffix, kind of J


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: NaN where there is nothing to take it from.
        low: lower end.
        high: upper end.
        of: how many questions it is made of.
    """

    value: float
    low: float
    high: float
    of: int

    def __format__(self, spec: str) -> str:
        if math.isnan(self.value):
            return "not known"
        interval = "" if math.isnan(self.low) else f" ({self.low:{spec}} to {self.high:{spec}})"
        return f"{self.value:{spec}}{interval}"


@dataclass(frozen=True)
class Outcomes:
    """What the outcome alone tells.

    Attributes:
        groups: questions with two responses or more.
        alone: questions with one, which are in no share of groups.
        rollouts: responses.
        per_group: mean size of a group.
        accuracy: share of right responses.
        mixed: share of groups with right and wrong ones, from which GRPO learns.
        all_right: share of groups in which every response is right.
        all_wrong: share in which none is.
        tokens: mean length of a response.
        right_spread: standard deviation of right responses' lengths in their groups, in tokens; NaN without a pair.
    """

    groups: int
    alone: int
    rollouts: int
    per_group: float
    accuracy: float
    mixed: float
    all_right: float
    all_wrong: float
    tokens: float
    right_spread: float


@dataclass(frozen=True)
class Sight:
    """What J tells.

    Attributes:
        groups: questions whose responses were looked at.
        rollouts: responses of these.
        without_episodes: how many of them have none.
        start: mean J_0.
        end: mean J_K.
        rise: mean of what J has risen by before the answer is stated, in right responses whose first episode does not state
            it; where no episode does, over all of them.
        noise: standard deviation of what a needless step adds before the answer is stated; NaN without one.
        within: AUC of J_K for right against wrong responses to the same question.
        within_halfway: the same of J after half of the episodes.
        useful: how often a right response's own step gains more than a needless one in its place; 0.5 is chance.
        useful_before: the same of steps that end before the answer is stated.
        redundant: share of a right response's reasoning tokens that come after the answer was stated.
        gains: mean sum of a response's gains, each without its sign, in J.
        forced: tokens of forced answers, over those of the responses.
        ways: `useful_before` of each segmenter, suffix and kind that was tried.
    """

    groups: int
    rollouts: int
    without_episodes: int
    start: float
    end: float
    rise: Estimate
    noise: float
    within: Estimate
    within_halfway: Estimate
    useful: Estimate
    useful_before: Estimate
    redundant: Estimate
    gains: float
    forced: float
    ways: Mapping[Way, Estimate]


def outcomes(groups: Mapping[str, Sequence[tuple[float, int]]]) -> Outcomes:
    """Count right and wrong ones.

    Args:
        groups: outcome and tokens of each response to each question.

    Raises:
        ValueError: no question has two responses.

    Example:
        >>> found = outcomes({"a": [(1.0, 10), (0.0, 20)], "b": [(0.0, 5), (0.0, 5)]})
        >>> found.accuracy, found.mixed, found.all_wrong, found.tokens
        (0.25, 0.5, 0.5, 10.0)
    """
    found = [of for of in groups.values() if len(of) > 1]
    if not found:
        raise ValueError(
            "no question has two responses or more; a group is what GRPO learns from, so sample several to each"
        )
    flat = [item for of in groups.values() for item in of]
    right = [sum(outcome > 0 for outcome, _ in of) for of in found]
    spreads = [np.var([t for outcome, t in of if outcome > 0], ddof=1) for of, n in zip(found, right, strict=True) if n > 1]
    return Outcomes(
        groups=len(found),
        alone=len(groups) - len(found),
        rollouts=len(flat),
        per_group=float(np.mean([len(of) for of in found])),
        accuracy=float(np.mean([outcome > 0 for outcome, _ in flat])),
        mixed=float(np.mean([0 < n < len(of) for n, of in zip(right, found, strict=True)])),
        all_right=float(np.mean([n == len(of) for n, of in zip(right, found, strict=True)])),
        all_wrong=float(np.mean([n == 0 for n in right])),
        tokens=float(np.mean([tokens for _, tokens in flat])),
        right_spread=math.sqrt(float(np.mean(spreads))) if spreads else math.nan,
    )


def sight(seen: Sequence[Seen], configured: Way, seed: int = 0) -> Sight:
    """What J tells of responses.

    Args:
        seen: responses that were looked at.
        configured: segmenter, suffix and kind of the configuration.
        seed: of the intervals' resampling.

    Raises:
        ValueError: nothing was looked at.
    """
    if not seen:
        raise ValueError("no response was looked at; nothing can be said of J")
    groups: dict[str, list[Seen]] = {}
    for one in seen:
        groups.setdefault(one.group, []).append(one)
    of = list(groups.values())
    ways = sorted({(c.segmenter, c.suffix, c.kind) for one in seen for c in one.compared})
    interval = lambda parts: estimate(of, parts, seed)  # noqa: E731
    needless = [needless for one in seen for _, needless, before in _pairs(one, configured) if before]
    return Sight(
        groups=len(of),
        rollouts=len(seen),
        without_episodes=sum(not one.ends for one in seen),
        start=float(np.mean([one.scores[0] for one in seen])),
        end=float(np.mean([one.scores[-1] for one in seen])),
        rise=interval(lambda group: [(_rise(one), 1.0) for one in group if one.outcome > 0 and _can_rise(one)]),
        noise=float(np.std(needless)) if needless else math.nan,
        within=interval(lambda group: _within(group, lambda k: k)),
        within_halfway=interval(lambda group: _within(group, lambda k: (k + 1) // 2)),
        useful=interval(_useful(configured, before=False)),
        useful_before=interval(_useful(configured, before=True)),
        redundant=interval(lambda group: [(_redundant(one), 1.0) for one in group if one.outcome > 0 and one.ends]),
        gains=float(np.mean([sum(abs(b - a) for a, b in itertools.pairwise(s.scores)) for s in seen])),
        forced=sum(one.forced for one in seen) / max(1, sum(one.tokens for one in seen)),
        ways={way: interval(_useful(way, before=True)) for way in ways},
    )


def estimate(
    groups: Sequence[Sequence[Seen]], parts: Callable[[Sequence[Seen]], Iterable[tuple[float, float]]], seed: int
) -> Estimate:
    """The ratio of two sums over questions, with an interval by resampling questions.

    Args:
        groups: the responses to each question.
        parts: what a question adds to the numerator and the denominator; questions that add nothing do not count.
        seed: of the resampling.

    Example:
        >>> found = estimate([[1], [2], [3]], lambda group: [(float(one), 1.0) for one in group], 0)
        >>> found.value, found.of
        (2.0, 3)
    """
    sums = [np.array(list(parts(group)), dtype=float).reshape(-1, 2).sum(axis=0) for group in groups]
    kept = [pair for pair in sums if pair[1] > 0]
    if not kept:
        return Estimate(math.nan, math.nan, math.nan, 0)
    table = np.stack(kept)
    low, high = bootstrap(table[:, 0], seed=seed, ratio_to=table[:, 1], resamples=RESAMPLES)
    return Estimate(float(table[:, 0].sum() / table[:, 1].sum()), low, high, len(table))


def _pairs(one: Seen, way: Way) -> list[tuple[float, float, bool]]:
    """Gains of an own and of a needless step in one place, and whether that is before the answer is stated."""
    return [
        pair
        for compared in one.compared
        if (compared.segmenter, compared.suffix, compared.kind) == way
        for pair in zip(compared.own, compared.needless, compared.before, strict=True)
    ]


def _useful(way: Way, *, before: bool) -> Callable[[Sequence[Seen]], Iterable[tuple[float, float]]]:
    """Of a question: in how many places the own step gains more, ties half, and how many places there are."""
    return lambda group: [
        ((own > needless) + 0.5 * (own == needless), 1.0)
        for one in group
        for own, needless, early in _pairs(one, way)
        if early or not before
    ]


def _can_rise(one: Seen) -> bool:
    """Whether an episode stands before the answer is stated."""
    return bool(one.ends) and one.stated != 0


def _rise(one: Seen) -> float:
    """J before the episode that states the answer, over J_0; J_K where none does."""
    before = len(one.ends) if one.stated == NOWHERE else one.stated  # an episode's number is how many stand before it
    return one.scores[before] - one.scores[0]


def _within(group: Sequence[Seen], place: Callable[[int], int]) -> list[tuple[float, float]]:
    """The AUC of J in one group, if it holds right and wrong responses with episodes; groups count alike."""
    kept = [one for one in group if one.ends]
    right = torch.tensor([one.outcome > 0 for one in kept], dtype=torch.bool)
    if not kept or right.all() or not right.any():
        return []
    return [(auc(torch.tensor([one.scores[place(len(one.ends))] for one in kept], dtype=torch.float64), right), 1.0)]


def _redundant(one: Seen) -> float:
    stated = 0.0 if one.stated == NOWHERE else one.ends[-1] - one.ends[one.stated]
    return stated / one.ends[-1]
