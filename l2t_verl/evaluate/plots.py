"""The two plots of a comparison, of the shape of the paper's figures 2 and 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from l2t_verl.evaluate.finished import Evaluation, paired, published_numbers
from l2t_verl.evaluate.statistics import bootstrap
from l2t_verl.files import whole


def plot_tokens(runs: Sequence[Evaluation], published: Mapping[str, Any] | None, file: Path) -> None:
    """Tokens of each run as a share of the first one's, by benchmark, with intervals; printed ones hatched."""
    plt = _pyplot()
    base, benchmarks = runs[0], list(runs[0].found)
    bars: dict[str, list[tuple[int, float, float, float]]] = {
        base.name: [(i, 1.0, 0.0, 0.0) for i in range(len(benchmarks))]
    }
    for position, benchmark in enumerate(benchmarks):
        for run in runs[1:]:
            if benchmark in run.found:
                _, _, tokens_a, tokens_b = paired(base, run, benchmark)
                ratio, (low, high) = tokens_b.mean() / tokens_a.mean(), bootstrap(tokens_b, ratio_to=tokens_a)
                bars.setdefault(run.name, []).append((position, ratio, max(0.0, ratio - low), max(0.0, high - ratio)))
        for arm, (_, ratio) in (published_numbers(published, benchmark) if published else {}).items():
            if ratio is not None and arm != "base":
                bars.setdefault(f"printed: {arm}, to printed: base", []).append((position, ratio, 0.0, 0.0))
    figure, axes = plt.subplots(figsize=(max(5, 1.6 * len(benchmarks) + 2), 3.5), layout="constrained")
    width = 0.8 / len(bars)
    for i, (name, values) in enumerate(bars.items()):
        x, height, below, above = zip(*values, strict=True)
        errors = None if name.startswith("printed") else (below, above)
        hatch = "//" if name.startswith("printed") else None
        places = [place + (i - len(bars) / 2 + 0.5) * width for place in x]
        axes.bar(places, height, width, label=name, yerr=errors, hatch=hatch, capsize=2, edgecolor="white")
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_xticks(range(len(benchmarks)), benchmarks)
    axes.set_ylabel(f"tokens, relative to {base.name}")
    axes.legend(fontsize=8)
    _save(figure, file)


def plot_budgets(runs: Sequence[Evaluation], file: Path) -> None:
    """pass@1 against the tokens after which the answer was forced; the last point is the whole response."""
    plt = _pyplot()
    benchmarks = [name for name in runs[0].found if any(run.found.get(name, {}).get("budgets") for run in runs)]
    figure, panels = plt.subplots(
        1, len(benchmarks), figsize=(4 * len(benchmarks), 3.3), layout="constrained", squeeze=False
    )
    for axes, benchmark in zip(panels[0], benchmarks, strict=True):
        for run in runs:
            entry = run.found.get(benchmark)
            if entry and entry["budgets"]:
                points = [(int(budget), of["pass@1"], of["interval"]) for budget, of in entry["budgets"].items()]
                points.append((entry["tokens"], entry["pass@1"], entry["interval"]))
                x, y, intervals = zip(*points, strict=True)
                low, high = np.array(intervals, dtype=float).T  # None of a single question becomes nan
                (line,) = axes.plot(x, y, marker="o", markersize=4, label=run.name)
                axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15)
        axes.set(title=benchmark, xlabel="tokens of thought, then the mean of whole responses", ylabel="pass@1, %")
        axes.legend(fontsize=8)
    _save(figure, file)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, file: Path) -> None:
    with whole(file) as partial:
        figure.savefig(partial, dpi=150)
