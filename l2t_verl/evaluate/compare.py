"""Evaluations beside each other, paired by question, with the paper's printed numbers where they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from l2t_verl.evaluate.finished import Evaluation, paired, published_numbers, published_of, read
from l2t_verl.evaluate.plots import plot_budgets, plot_tokens
from l2t_verl.evaluate.statistics import bootstrap
from l2t_verl.files import write_whole

COMPARED = ("kind", "samples", "temperature", "top_p", "max_tokens", "max_model_len")


def unlike(runs: Sequence[Evaluation]) -> list[str]:
    """List what makes runs hard to compare: settings of the sampling, or problems, that differ between them."""
    lines = []
    for setting in COMPARED:
        values = {run.name: run.settings.get(setting) for run in runs}
        if len(set(map(str, values.values()))) > 1:
            lines.append(f"{setting}: " + ", ".join(f"{value} ({name})" for name, value in values.items()))
    for benchmark in runs[0].found:
        files = {str(run.settings.get("benchmarks", {}).get(benchmark)) for run in runs if benchmark in run.found}
        if len(files) > 1:
            lines.append(f"{benchmark}: its problems are not the same files, or not as many of them")
    return lines


def comparison(runs: Sequence[Evaluation], published: Mapping[str, Any] | None = None) -> str:
    """Write the table as Markdown: each run against the first, on the questions that both have.

    Args:
        runs: at least one; the first is compared with.
        published: the paper's numbers for the model; see `published_of`.
    """
    base, *others = runs
    differing = [f"- {line}" for line in unlike(runs)]
    lines = [
        f"Against {base.name}, paired by question; 95 % bootstrap intervals over questions.",
        "",
        *(["**Not sampled alike:**", "", *differing, ""] if differing else []),
        "| benchmark | run | questions | pass@1, % | Δ, points | tokens | tokens, ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for benchmark, entry in base.found.items():
        lines.append(_row(benchmark, base.name, entry["questions"], entry["pass@1"], "–", entry["tokens"], "1"))
        for other in others:
            if benchmark not in other.found:
                lines.append(f"| {benchmark} | {other.name} | – | not evaluated | – | – | – |")
                continue
            a, b, tokens_a, tokens_b = paired(base, other, benchmark)
            low, high = bootstrap(b - a)
            difference = f"{100 * float((b - a).mean()):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
            low, high = bootstrap(tokens_b, ratio_to=tokens_a)
            ratio = f"{tokens_b.mean() / tokens_a.mean():.2f} ({low:.2f} to {high:.2f})"
            lines.append(_row(benchmark, other.name, len(a), 100 * b.mean(), difference, tokens_b.mean(), ratio))
        lines += _published_rows(benchmark, published)
    if published:
        lines += ["", f"*printed*: {published['source']}; none of them was measured here."]
    return "\n".join(lines) + "\n"


def write_comparison(folders: Sequence[Path], out: Path, model: str | None) -> str:
    """Write compare.md, tokens.png and, where answers were forced, budgets.png.

    Returns:
        The table.

    Raises:
        FileError: a folder is no finished evaluation, or the disk is full.
        ValueError: fewer than two runs, or a model of which nothing is printed.
    """
    if len(folders) < 2:
        raise ValueError("compare takes two folders or more")
    published = published_of(model) if model else None
    runs = [read(folder) for folder in folders]
    names = [run.name for run in runs]
    runs = [
        replace(run, name=str(folder)) if names.count(run.name) > 1 else run
        for run, folder in zip(runs, folders, strict=True)
    ]
    out.mkdir(parents=True, exist_ok=True)
    text = comparison(runs, published)
    plot_tokens(runs, published, out / "tokens.png")
    text += "\n![tokens](tokens.png)\n"
    if any(entry["budgets"] for run in runs for entry in run.found.values()):
        plot_budgets(runs, out / "budgets.png")
        text += "\n![accuracy against a budget of tokens](budgets.png)\n"
    write_whole(out / "compare.md", text)
    return text


def _row(benchmark: str, name: str, questions: int, accuracy: float, difference: str, tokens: float, ratio: str) -> str:
    return f"| {benchmark} | {name} | {questions} | {accuracy:.1f} | {difference} | {tokens:.0f} | {ratio} |"


def _published_rows(benchmark: str, published: Mapping[str, Any] | None) -> list[str]:
    numbers = published_numbers(published, benchmark) if published else {}
    lines = []
    for arm, (accuracy, ratio) in numbers.items():
        difference = "–" if arm == "base" else f"{accuracy - numbers['base'][0]:+.1f} to *printed: base*"
        of_base = "–" if ratio is None else f"{ratio} of *printed: base*"
        lines.append(f"| {benchmark} | *printed: {arm}* | – | {accuracy} | {difference} | – | {of_base} |")
    return lines
