"""Runs by arm and seed, and what is read from them to compare arms."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recipes.controlled.plans import ALL, FRONTIER
from recipes.controlled.table import runs_of

Run = dict[str, Any]
FRONTIER_STRENGTHS = (ALL["length_penalty"].chosen, *FRONTIER["length_penalty"])
TITLES = {"start": "start"} | {name: arm.title for name, arm in ALL.items()}


def load(source: Path) -> list[Run]:
    """All runs of a table, or of a folder of single runs, in the order of their names."""
    if source.is_file():
        return list(runs_of(pd.read_parquet(source)).values())
    return [json.loads(file.read_text()) for file in sorted(source.glob("*.json"))]


def confirming(runs: list[Run], arm: str, strength: float | str | None = None) -> dict[int, Run]:
    """An arm's runs on the test problems at the chosen strength or at another, by seed."""
    wanted = ALL[arm].chosen if strength is None and arm in ALL else strength
    of_arm = on_test(runs, arm)
    return {run["settings"]["seed"]: run for run in of_arm if arm not in ALL or strength_of(run["settings"]) == wanted}


def on_test(runs: list[Run], arm: str) -> list[Run]:
    """An arm's runs that are measured on the test problems."""
    return [run for run in runs if run["settings"]["arm"] == arm and run["settings"]["split"] == "test"]


def accuracy(run: Run) -> float:
    """Of the evaluation, in percent."""
    return 100 * run["evaluation"]["accuracy"]


def tokens(run: Run) -> float:
    """Of a response of the evaluation, on average."""
    return run["evaluation"]["tokens"]


def late(run: Run, measure: str) -> float:
    """What training measured, on average over the last ten steps."""
    return float(np.mean([point[measure] for point in run["curve"][-10:]]))


def start(run: Run) -> int:
    """The start that it trained."""
    return run["settings"]["start"]


def values(runs: Iterable[Run], read: Callable[[Run], float]) -> list[tuple[int, float]]:
    """Start and value of each run."""
    return [(start(run), read(run)) for run in runs]


def paired(own: dict[int, Run], base: dict[int, Run], compare: Callable[[Run, Run], float]) -> list[tuple[int, float]]:
    """Start and comparison of the runs of each seed that both have."""
    return [(start(own[seed]), compare(own[seed], base[seed])) for seed in sorted(set(own) & set(base))]


def of_starts(runs: list[Run], starts: tuple[int, ...]) -> list[Run]:
    """The runs that trained one of these starts."""
    return [run for run in runs if run["settings"]["start"] in starts]


def strength_of(settings: dict[str, Any]) -> float:
    """The value of the arm's strength in a run's settings."""
    path = ALL[settings["arm"]].strength
    if path in settings:
        return settings[path]
    node = settings["l2t"]
    for name in path.split("."):
        node = node[name]
    return node


def frontier(runs: list[Run]) -> dict[str, list[tuple[float, float, float]]]:
    """For each arm its tuning runs: (strength, mean tokens, mean accuracy) in the order of strength."""
    found: dict[str, dict[float, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        settings = run["settings"]
        if settings["split"] == "validation" and ALL[settings["arm"]].tried:
            found[settings["arm"]][strength_of(settings)].append(run)
    return {
        arm: [
            (
                strength,
                float(np.mean([r["evaluation"]["tokens"] for r in group])),
                float(np.mean([r["evaluation"]["accuracy"] for r in group])),
            )
            for strength, group in sorted(of_arm.items())
        ]
        for arm, of_arm in sorted(found.items(), key=lambda item: list(TITLES).index(item[0]))
    }


def choose(points: dict[str, list[tuple[float, float, float]]]) -> dict[str, float]:
    """The strength of each arm that is confirmed, from the tuning runs: one rule for all.

    For GRPO the most accurate. For the others the fewest tokens among those at most one point less accurate than that; the
    most accurate if none is.

    Example:
        >>> choose({"grpo": [(1e-4, 60, 0.7), (2e-4, 65, 0.8)], "shaped": [(1.0, 50, 0.8), (2.0, 40, 0.795), (4.0, 9, 0.6)]})
        {'grpo': 0.0002, 'shaped': 2.0}
    """
    best = {arm: max(of_arm, key=lambda point: point[2]) for arm, of_arm in points.items()}
    found = {}
    for arm, of_arm in points.items():
        good = [point for point in of_arm if point[2] >= best["grpo"][2] - 0.01]
        found[arm] = (min(good, key=lambda point: point[1]) if good and arm != "grpo" else best[arm])[0]
    return found


class AtEqualLength(NamedTuple):
    """What the length penalty reaches at a run's length.

    Attributes:
        accuracy: its.
        beyond: whether the run is shorter than the penalty's shortest, or longer than its longest, which then stands there.
    """

    accuracy: float
    beyond: bool


def length_penalty_at_equal_length(
    runs: list[Run], own: dict[int, Run], strengths: Collection[float | str] = FRONTIER_STRENGTHS
) -> dict[int, AtEqualLength]:
    """What GRPO with the length penalty reaches, for each seed by itself, at as many tokens as another arm's run has.

    Its accuracy is interpolated between its strengths (0, which is GRPO, and those run on fresh seeds); beyond its ends the
    end's holds.

    Args:
        runs: all runs.
        own: the other arm's runs by seed.
        strengths: of the length penalty, beside 0.

    Returns:
        By seed, for the seeds that have all of them.
    """
    line = [confirming(runs, "grpo"), *(confirming(runs, "length_penalty", value) for value in sorted(strengths))]
    found = {}
    for seed in sorted(set(own).intersection(*line)):
        lengths, accuracies = zip(*sorted((tokens(of_seed[seed]), accuracy(of_seed[seed])) for of_seed in line), strict=True)
        length = tokens(own[seed])
        inside = lengths[0] <= length <= lengths[-1]
        found[seed] = AtEqualLength(float(np.interp(length, lengths, accuracies)), not inside)
    return found


def removed(run: Run, base: Run, labels: frozenset[str]) -> float:
    """Share of the baseline's tokens of these labels that a run does not write, over all tiers."""
    own, other = (
        sum(tier["tokens by label"][label] for tier in r["evaluation"]["tiers"].values() for label in labels)
        for r in (run, base)
    )
    return 1 - own / other if other else float("nan")
