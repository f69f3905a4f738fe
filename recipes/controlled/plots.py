"""The plots of RESULTS.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from l2t_verl.guide.svg import Drawing
from recipes.controlled.comparison import TITLES, Run, accuracy, confirming, of_starts, tokens, values
from recipes.controlled.intervals import Estimate, estimate
from recipes.controlled.plans import ARMS, FRONTIER, STARTS
from recipes.controlled.settings import BUDGETS
from recipes.controlled.words import LABELS

WIDTH, HEIGHT = 860, 478  # of the frontier, in pixels
LEFT, TOP, PANEL_WIDTH, PANEL_HEIGHT, BETWEEN = 52, 40, 370, 320, 56
COLOURS = dict(zip(ARMS, ("blue", "orange", "green", "red", "purple", "brown"), strict=True)) | {"start": "ink"}


def frontier(runs: list[Run]) -> str:
    """Accuracy over tokens for each start: confirmed arms with intervals, and lines through the strengths of two of them.

    Returns:
        An SVG file's text.
    """
    numbers = [number for number in STARTS if of_starts(runs, (number,))]
    drawing = Drawing(WIDTH, HEIGHT, "accuracy over tokens of a response, for each arm and start")
    counts: dict[str, int] = {}
    for panel, number in enumerate(numbers):
        of_start = of_starts(runs, (number,))
        points, lines = _points(of_start), _lines(of_start)
        counts |= {arm: counts.get(arm, 0) + count for arm, (_, _, count) in points.items()}
        everywhere = [end for x, y, _ in points.values() for end in zip(_ends(x), _ends(y), strict=True)]
        axes = _Axes.around([*everywhere, *(point for line in lines.values() for point in line)], panel)
        axes.draw(drawing, f"start {number}")
        for arm, line in lines.items():
            drawing.path([axes.at(*point) for point in line], COLOURS[arm], width=1.2, opacity=0.6)
        for arm, (x, y, _) in points.items():
            drawing.path([axes.at(end, y.mean) for end in _ends(x)], COLOURS[arm])
            drawing.path([axes.at(x.mean, end) for end in _ends(y)], COLOURS[arm])
            drawing.dot(*axes.at(x.mean, y.mean), 4.5, COLOURS[arm])
    drawing.text(16, TOP + PANEL_HEIGHT / 2, "accuracy, %", "quiet", anchor="middle", turn=-90)
    for i, (arm, count) in enumerate(counts.items()):
        left, base = LEFT + 400 * (i % 2), TOP + PANEL_HEIGHT + 52 + 18 * (i // 2)
        drawing.dot(left, base - 4, 4.5, COLOURS[arm])
        drawing.text(
            left + 10, base, TITLES[arm] + (f" ({count} seeds)" if arm != "start" else ", before training"), kind="s"
        )
    return drawing.svg()


def _points(runs: list[Run]) -> dict[str, tuple[Estimate, Estimate, int]]:
    """Of each arm that was run: tokens, accuracy, seeds."""
    found = {arm: list(confirming(runs, arm).values()) for arm in ["start", *ARMS]}
    return {
        arm: (estimate(values(own, tokens)), estimate(values(own, accuracy)), len(own)) for arm, own in found.items() if own
    }


def _lines(runs: list[Run]) -> dict[str, list[tuple[float, float]]]:
    """Means at the strengths of the arms that were run at several; GRPO is the length penalty's strength 0."""
    found = {}
    for arm in FRONTIER:
        weakest = _mean(list(confirming(runs, "grpo").values())) if arm == "length_penalty" else ()
        strengths = sorted({ARMS[arm].chosen, *FRONTIER[arm]})
        groups = [list(confirming(runs, arm, strength).values()) for strength in strengths]
        line = [point for point in (weakest, *map(_mean, groups)) if point]
        if len(line) > 1:
            found[arm] = line
    return found


def _mean(own: list[Run]) -> tuple[float, float] | tuple[()]:
    return (float(np.mean([tokens(run) for run in own])), float(np.mean([accuracy(run) for run in own]))) if own else ()


def _ends(found: Estimate) -> tuple[float, float]:
    half = 0.0 if np.isnan(found.half) else found.half
    return found.mean - half, found.mean + half


@dataclass(frozen=True)
class _Axes:
    """One panel's scales.

    Attributes:
        left: of the panel, in pixels.
        x: tokens at its left and right.
        y: accuracy at its bottom and top, in percent.
    """

    left: float
    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def around(cls, points: list[tuple[float, float]], panel: int) -> _Axes:
        spans = [(min(of) - 1, max(of) + 1) for of in zip(*points, strict=True)]
        return cls(LEFT + panel * (PANEL_WIDTH + BETWEEN), *spans)

    def at(self, x: float, y: float) -> tuple[float, float]:
        across, up = ((v - low) / (high - low) for v, (low, high) in ((x, self.x), (y, self.y)))
        return self.left + across * PANEL_WIDTH, TOP + (1 - up) * PANEL_HEIGHT

    def draw(self, drawing: Drawing, title: str) -> None:
        right, bottom = self.left + PANEL_WIDTH, TOP + PANEL_HEIGHT
        for value in range(0, 101, 5):
            if self.x[0] <= value <= self.x[1]:
                x, _ = self.at(value, self.y[0])
                drawing.path([(x, TOP), (x, bottom)], "line", width=0.7)
                drawing.text(x, bottom + 15, str(value), "quiet", kind="s", anchor="middle")
            if self.y[0] <= value <= self.y[1]:
                _, y = self.at(self.x[0], value)
                drawing.path([(self.left, y), (right, y)], "line", width=0.7)
                drawing.text(self.left - 6, y + 4, str(value), "quiet", kind="s", anchor="end")
        drawing.text((self.left + right) / 2, TOP - 14, title, kind="b", anchor="middle")
        drawing.text((self.left + right) / 2, bottom + 31, "tokens of a response", "quiet", anchor="middle")


def plot_curves(runs: list[Run], file: Path) -> None:
    """Training curves: means over seeds, smoothed over five steps."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    for arm in ARMS:
        own = list(confirming(runs, arm).values())
        for axis, name in zip(axes, ("accuracy", "tokens", "kl"), strict=True):
            if own:
                curves = np.array([[point[name] for point in run["curve"]] for run in own]).mean(axis=0)
                axis.plot(np.convolve(curves, np.ones(5) / 5, mode="valid"), label=TITLES[arm])
                axis.set(xlabel="step", title={"kl": "KL to the start, nats a response"}.get(name, name))
                axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    _save(figure, file)


def plot_budgets(runs: list[Run], file: Path) -> None:
    """Accuracy against tokens of thinking."""
    figure, axes = plt.subplots(figsize=(6, 4), constrained_layout=True)
    for arm in ["start", *ARMS]:
        own = list(confirming(runs, arm).values())
        if own:
            shares = np.array([[run["evaluation"]["budgets"][str(b)] for b in BUDGETS] for run in own]).mean(axis=0)
            axes.plot(
                BUDGETS,
                100 * shares,
                marker=".",
                color="black" if arm == "start" else None,
                label=TITLES[arm],
            )
    axes.set(xlabel="budget, tokens of thinking", ylabel="accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, file)


def plot_labels(runs: list[Run], file: Path) -> None:
    """Tokens of a response by what its steps are."""
    arms = [arm for arm in ["start", *ARMS] if confirming(runs, arm)]
    figure, axes = plt.subplots(figsize=(9, 3.6), constrained_layout=True)
    left = np.zeros(len(arms))
    for label in LABELS:
        lengths = np.array(
            [
                np.mean(
                    [
                        np.mean([t["tokens by label"][label] for t in r["evaluation"]["tiers"].values()])
                        for r in confirming(runs, arm).values()
                    ]
                )
                for arm in arms
            ]
        )
        axes.barh([TITLES[arm] for arm in arms], lengths, left=left, label=label)
        left += lengths
    axes.invert_yaxis()
    axes.set(xlabel="tokens of a response, mean over tiers")
    axes.legend(fontsize=7, ncols=7, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    _save(figure, file)


def _save(figure: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, metadata={"Software": None})
    plt.close(figure)


PLOTS = {"curves": plot_curves, "budgets": plot_budgets, "labels": plot_labels}
