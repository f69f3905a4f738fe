"""The page: rollouts as one HTML file that asks for nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from l2t_verl.inspector.rollouts import Rollout
from l2t_verl.inspector.run import Inspected
from l2t_verl.inspector.sparkline import Sparkline
from l2t_verl.inspector.visible import plain, visible

# Quantile of |reward| that gets the full colour; shades go by the square root, or most would be too pale to see
STRONGEST = 0.98


@dataclass(frozen=True)
class Entry:
    """An article of the page.

    Attributes:
        number: from 1.
        sides: the rollout, and in a comparison the other side's; None where a side has none.
    """

    number: int
    sides: tuple[Rollout | None, ...]

    @property
    def rollout(self) -> Rollout:
        """The rollout by which the article is found and sorted: that of the first side that has one."""
        return next(side for side in self.sides if side is not None)

    @property
    def verdicts(self) -> list[str]:
        """The verdict on each side's final answer; `missing` where a side has no rollout."""
        return [verdict(side) if side else "missing" for side in self.sides]


def page(found: Inspected, beside: Inspected | None, *, names: Sequence[str], about: Sequence[tuple[str, str]]) -> str:
    """Write the page as HTML.

    Args:
        found: the rollouts, and what was skipped.
        beside: those of the other side of a comparison; they are matched by their problem.
        names: of the sides.
        about: how the rewards came about, as names and values.
    """
    everything = [*found.rollouts, *(beside.rollouts if beside else ())]
    loader = PackageLoader("l2t_verl.inspector")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"visible": visible, "plain": plain}
    script = loader.get_source(environment, "inspect.js")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("inspect.html.j2").render(
        entries=list(matched(found.rollouts, beside.rollouts)) if beside else singles(found.rollouts),
        names=names,
        about=about,
        skipped=[item for side in (found, beside) if side for item in side.skipped if item.is_fault],
        summaries=[summary(side.rollouts) for side in (found, beside) if side],
        style=Markup(loader.get_source(environment, "inspect.css")[0]),
        script=Markup(script),
        script_digest=digest,
        strongest=(strongest := scale(everything)),
        digits=max(3, 2 - math.floor(math.log10(strongest))),
        strength=lambda reward: round(min(1.0, abs(reward) / strongest) ** 0.5, 3),
        sparkline=Sparkline.fitting(everything).draw,
        verdict=verdict,
    )


def singles(rollouts: Sequence[Rollout]) -> list[Entry]:
    """Make an article of each rollout."""
    return [Entry(number, (rollout,)) for number, rollout in enumerate(rollouts, 1)]


def matched(rollouts: Sequence[Rollout], others: Sequence[Rollout]) -> Iterator[Entry]:
    """Make an article of each pair of rollouts to one problem; the i-th of one side goes with the i-th of the other."""
    by_problem: dict[str, tuple[list[Rollout], list[Rollout]]] = defaultdict(lambda: ([], []))
    for side, of_side in enumerate((rollouts, others)):
        for rollout in of_side:
            by_problem[" ".join(rollout.problem.split())][side].append(rollout)
    pairs = (pair for sides in by_problem.values() for pair in zip_longest(*sides))
    for number, pair in enumerate(pairs, 1):
        yield Entry(number, pair)


def verdict(rollout: Rollout) -> str:
    """What the final answer is: `correct`, `wrong` or `ungraded`."""
    if rollout.outcome is None:
        return "ungraded"
    return "correct" if rollout.outcome > 0 else "wrong"


def scale(rollouts: Sequence[Rollout]) -> float:
    """The size of a reward that is drawn in full colour."""
    sizes = sorted(abs(episode.reward) for rollout in rollouts for episode in rollout.episodes)
    return max(sizes[int(STRONGEST * (len(sizes) - 1))] if sizes else 0.0, 1e-6)


def summary(rollouts: Sequence[Rollout]) -> list[tuple[str, str]]:
    """The numbers that describe one side, as names and values."""
    if not rollouts:
        return [("rollouts", "0")]
    graded = [rollout.outcome > 0 for rollout in rollouts if rollout.outcome is not None]
    scored = [rollout.scores for rollout in rollouts if rollout.scores]
    episodes = [episode for rollout in rollouts for episode in rollout.episodes]
    lines = [("rollouts", str(len(rollouts)))]
    lines += [("correct", f"{sum(graded)} of {len(graded)}")] if graded else []
    lines += [("mean tokens", f"{statistics.mean(rollout.tokens for rollout in rollouts):,.0f}")]
    lines += [("mean episodes", f"{len(episodes) / len(rollouts):.1f}")]
    if scored:
        start, end = (statistics.mean(scores[k] for scores in scored) for k in (0, -1))
        lines += [("mean J", f"{start:.3f} → {end:.3f}")]
    if episodes:
        lines += [("episodes with a negative reward", f"{sum(e.reward < 0 for e in episodes) / len(episodes):.0%}")]
    lines += [("mean redundancy", f"{statistics.mean(rollout.redundancy for rollout in rollouts):.0%}")]
    return lines
