"""Runs by arm and seed, and the statistics that compare them."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from recipes.controlled.plans import ALL, FRONTIER

Run = dict[str, Any]
TITLES = {"start": "start"} | {name: arm.title for name, arm in ALL.items()}


def load(folder: Path) -> list[Run]:
    """All runs of a folder, in the order of their names."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def confirming(runs: list[Run], arm: str, strength: float | str | None = None) -> dict[int, Run]:
    """An arm's runs on the test problems at the chosen strength or at another, by seed."""
    wanted = ALL[arm].chosen if strength is None and arm in ALL else strength
    of_arm = [run for run in runs if run["settings"]["arm"] == arm and run["settings"]["split"] == "test"]
    return {run["settings"]["seed"]: run for run in of_arm if arm not in ALL or strength_of(run["settings"]) == wanted}


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
        if settings["split"] == "validation":
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


def length_penalty_at_equal_length(runs: list[Run], own: dict[int, Run]) -> dict[int, float]:
    """What GRPO with the length penalty reaches, for each seed by itself, at as many tokens as another arm's run has.

    Its accuracy is interpolated between its strengths (0, which is GRPO, and those run on fresh seeds); beyond its ends the
    end's holds.

    Args:
        runs: all runs.
        own: the other arm's runs by seed.

    Returns:
        Accuracy by seed, for the seeds that have the whole frontier.
    """
    strengths = {ALL["length_penalty"].chosen, *FRONTIER["length_penalty"]}
    line = [confirming(runs, "grpo"), *(confirming(runs, "length_penalty", value) for value in sorted(strengths))]
    found = {}
    for seed in sorted(set(own).intersection(*line)):
        points = sorted((of_seed[seed]["evaluation"]["tokens"], of_seed[seed]["evaluation"]["accuracy"]) for of_seed in line)
        found[seed] = float(np.interp(own[seed]["evaluation"]["tokens"], *zip(*points, strict=True)))
    return found


def removed(run: Run, base: Run, labels: frozenset[str]) -> float:
    """Share of the baseline's tokens of these labels that a run does not write, over all tiers."""
    own, other = (
        sum(tier["tokens by label"][label] for tier in r["evaluation"]["tiers"].values() for label in labels)
        for r in (run, base)
    )
    return 1 - own / other if other else float("nan")


def mean_and_half(values: list[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval; NaN for a single value's width."""
    if len(values) < 2:
        return (values[0] if values else float("nan")), float("nan")
    return float(np.mean(values)), float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))


def with_interval(values: list[float], scale: float = 1.0, digits: int = 1) -> str:
    """Mean and 95 % interval (Student's t) as text; of two values their range, of one itself.

    Example:
        >>> with_interval([1.0, 2.0, 3.0]), with_interval([1.0, 2.0]), with_interval([1.0])
        ('2.0 ± 2.5', '1.5 (1.0 to 2.0)', '1.0')
    """
    mean, half = mean_and_half(values)
    if len(values) < 3:
        low, high = (f"{scale * bound(values):.{digits}f}" for bound in (min, max))
        return f"{scale * mean:.{digits}f}" + (f" ({low} to {high})" if len(values) == 2 else "")
    return f"{scale * mean:.{digits}f} ± {scale * half:.{digits}f}"


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    found, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        found[i] = round(largest, 12)
    return found
