"""Pictures as SVG text, made to stand in a page on light or dark ground."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from l2t_verl.report.panels import Panel
from l2t_verl.report.runs import Run

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#F0E442")  # Okabe and Ito's
INK = "#808080"  # readable on white and on black


def curves(panel: Panel, runs: Sequence[Run]) -> str:
    """A panel's lines, one colour an arm; over seeds the mean, with a 95 % interval (Student's t) from two on.

    The page says which colour is whose, and which metric is dashed.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(4.6, 2.7), layout="constrained")
    for arm, colour in colours(runs).items():
        for style, (_, metric) in zip(("-", "--"), panel.metrics, strict=False):
            steps, mean, half = over_seeds([run for run in runs if run.arm == arm], metric)
            if len(steps) == 0:
                continue
            mark = "." if len(steps) < 3 else None
            axes.plot(steps, mean, style, color=colour, linewidth=1.4, marker=mark)
            axes.fill_between(steps, mean - half, mean + half, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("step")
    axes.set_ylabel(panel.unit)
    known = [step for run in runs for step in run.steps]
    pad = max(0.5, 0.03 * (max(known) - min(known)))
    axes.set_xlim(min(known) - pad, max(known) + pad)  # all panels alike, also those that know a step only
    axes.xaxis.get_major_locator().set_params(integer=True)
    return _svg(figure, axes)


def colours(runs: Sequence[Run]) -> dict[str, str]:
    """The colour of each arm."""
    arms = list(dict.fromkeys(run.arm for run in runs))
    return dict(zip(arms, _cycled(len(arms)), strict=True))


def over_seeds(runs: Sequence[Run], metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps that all seeds with this metric have, its mean there, and half of its 95 % interval (0 for one seed)."""
    from scipy.stats import t

    series = [found for run in runs if (found := run.series(metric))]
    steps = sorted(set.intersection(*(set(one) for one in series))) if series else []
    values = np.array([[one[step] for step in steps] for one in series]).reshape(len(series), len(steps))
    if len(series) < 2:
        mean = values[0] if len(series) else np.zeros(0)
        return np.array(steps), mean, np.zeros(len(steps))
    half = t.ppf(0.975, len(series) - 1) * values.std(axis=0, ddof=1) / np.sqrt(len(series))
    return np.array(steps), values.mean(axis=0), half


def stages(times: dict[str, dict[str, float]]) -> str:
    """Seconds of a step by stage, one bar an arm; L2T's is hatched.

    Args:
        times: of each arm the mean seconds of each stage.
    """
    plt = _pyplot()
    names = list(dict.fromkeys(stage for of in times.values() for stage in of))
    figure, axes = plt.subplots(figsize=(7.2, 0.9 + 0.38 * len(times)), layout="constrained")
    places, left = np.arange(len(times)), np.zeros(len(times))
    for colour, stage in zip(_cycled(len(names)), names, strict=True):
        width = np.array([of.get(stage, 0.0) for of in times.values()])
        hatch = "///" if stage == "l2t" else None
        axes.barh(places, width, left=left, color=colour, label=stage, height=0.6, hatch=hatch, edgecolor="white")
        left += width
    axes.set_yticks(places, list(times), parse_math=False)  # a run's name may hold dollar signs
    axes.invert_yaxis()
    axes.set_xlabel("seconds of a step")
    axes.legend(fontsize=6, ncols=5, framealpha=0, labelcolor=INK, loc="upper center", bbox_to_anchor=(0.5, -0.4))
    return _svg(figure, axes)


def _cycled(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text: smaller, and found by a search
    matplotlib.rcParams["svg.hashsalt"] = "l2t"  # the same picture is the same text
    import matplotlib.pyplot as plt

    return plt


def _svg(figure: Any, axes: Any) -> str:
    import matplotlib.pyplot as plt

    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)
    axes.tick_params(colors=INK, labelsize=7)
    axes.xaxis.label.set(color=INK, fontsize=8)
    axes.yaxis.label.set(color=INK, fontsize=8)
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    return re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", re.sub(r' height="[\d.]+pt"', "", svg, count=1), count=1)
