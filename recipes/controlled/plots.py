"""The plots of RESULTS.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from recipes.controlled.comparison import TITLES, Run, accuracy, confirming, of_starts, tokens, values
from recipes.controlled.evaluation import BUDGETS
from recipes.controlled.intervals import estimate
from recipes.controlled.labels import LABELS
from recipes.controlled.plans import ARMS, FRONTIER, STARTS


def plot_main(runs: list[Run], file: Path) -> None:
    """Accuracy over tokens for each start: confirmed arms with intervals, and lines through the strengths of two of them."""
    numbers = [number for number in STARTS if of_starts(runs, (number,))]
    figure, panels = plt.subplots(1, len(numbers), figsize=(5 * len(numbers), 4.4), constrained_layout=True, squeeze=False)
    colours = {arm: f"C{i}" for i, arm in enumerate(ARMS)}
    for number, axes in zip(numbers, panels[0], strict=True):
        of_start = of_starts(runs, (number,))
        for arm in FRONTIER:
            weakest = _point(list(confirming(of_start, "grpo").values())) if arm == "length_penalty" else ()
            strengths = sorted({ARMS[arm].chosen, *FRONTIER[arm]})
            groups = [list(confirming(of_start, arm, strength).values()) for strength in strengths]
            line = [point for point in (weakest, *map(_point, groups)) if point]
            if len(line) > 1:
                axes.plot(*zip(*line, strict=True), "-", marker=".", color=colours[arm], alpha=0.5, linewidth=1)
        for arm in ["start", *ARMS]:
            own = list(confirming(of_start, arm).values())
            if own:
                x, y = (estimate(values(own, read)) for read in (tokens, accuracy))
                style = {"fmt": "X" if arm == "start" else "o", "color": colours.get(arm, "black"), "capsize": 3}
                bars = {} if np.isnan(x.half) else {"xerr": x.half, "yerr": y.half}
                label = TITLES[arm].replace("`", "") + f" ({len(own)})" * (arm != "start")
                axes.errorbar(x.mean, y.mean, label=label, **bars, **style)
        axes.set(title=f"start {number}", xlabel="tokens of a response (test problems)")
        axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("accuracy, %")
    panels[0, 0].legend(title="arm (seeds), 95 % interval", fontsize=8, loc="center right")
    _save(figure, file)


def _point(own: list[Run]) -> tuple[float, float] | tuple[()]:
    return (float(np.mean([tokens(run) for run in own])), float(np.mean([accuracy(run) for run in own]))) if own else ()


def plot_curves(runs: list[Run], file: Path) -> None:
    """Training curves: means over seeds, smoothed over five steps."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    for arm in ARMS:
        own = list(confirming(runs, arm).values())
        for axis, name in zip(axes, ("accuracy", "tokens", "kl"), strict=True):
            if own:
                curves = np.array([[point[name] for point in run["curve"]] for run in own]).mean(axis=0)
                axis.plot(np.convolve(curves, np.ones(5) / 5, mode="valid"), label=TITLES[arm].replace("`", ""))
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
                label=TITLES[arm].replace("`", ""),
            )
    axes.set(xlabel="budget, tokens of thinking", ylabel="accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    _save(figure, file)


def plot_labels(runs: list[Run], file: Path) -> None:
    """Tokens of a response by what its steps are."""
    arms = [arm for arm in ["start", *ARMS] if confirming(runs, arm)]
    figure, axes = plt.subplots(figsize=(7, 3.6), constrained_layout=True)
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
        axes.barh([TITLES[arm].replace("`", "") for arm in arms], lengths, left=left, label=label)
        left += lengths
    axes.invert_yaxis()
    axes.set(xlabel="tokens of a response, mean over tiers")
    axes.legend(fontsize=7, ncols=7, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    _save(figure, file)


def _save(figure: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110, metadata={"Software": None})
    plt.close(figure)


PLOTS = {"main": plot_main, "curves": plot_curves, "budgets": plot_budgets, "labels": plot_labels}
