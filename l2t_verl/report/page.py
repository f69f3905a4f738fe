"""The page: what happened to one or several runs, in one HTML file that asks for nothing from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from l2t_verl.files import write_whole
from l2t_verl.inspector.visible import plain
from l2t_verl.report import charts
from l2t_verl.report.panels import COUNTERS, PANELS, STAGES, Panel
from l2t_verl.report.runs import Run, common

# Columns of the table of runs: title, metric, form
COLUMNS = (
    ("outcome", "critic/score/mean", "{:.3f}"),
    ("tokens", "response_length/mean", "{:,.0f}"),
    ("episodes", "l2t/episodes/mean", "{:.1f}"),
    ("J before", "l2t/answer_score/start", "{:.3f}"),
    ("J after", "l2t/answer_score/end", "{:.3f}"),
    ("gain", "l2t/fitting_gain/mean", "{:+.4f}"),
    ("penalty", "l2t/compression/mean", "{:.2e}"),
    ("seconds", "timing_s/step", "{:.1f}"),
)


@dataclass(frozen=True)
class Picture:
    """A panel with its drawing, and the same as numbers for those who do not see it."""

    panel: Panel
    svg: Markup
    rows: list[tuple[str, str, str]]


def write_report(runs: Sequence[Run], file: Path, rollouts: dict[str, str] | None = None) -> None:
    """Write the page, whole or not at all.

    Args:
        runs: at least one.
        file: of the page.
        rollouts: for each run's name the link to its rollouts.

    Raises:
        FileError: the disk is full, or the folder cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("l2t_verl.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = [picture(panel, runs) for panel in PANELS if any(common(runs, metric) for _, metric in panel.metrics)]
    times = stage_times(runs)
    text = environment.get_template("report.html.j2").render(
        runs=runs,
        rollouts=rollouts or {},
        table=[(run, [cell(run, *column[1:]) for column in COLUMNS]) for run in runs],
        columns=[title for title, _, _ in COLUMNS],
        first=[found for found in pictures if found.panel.first],
        others=[found for found in pictures if not found.panel.first],
        missing=[panel.title for panel in PANELS if not any(common(runs, metric) for _, metric in panel.metrics)],
        stages=Markup(charts.stages(times)) if times else "",
        shares=[(arm, of["l2t"], of["l2t"] / sum(of.values())) for arm, of in times.items() if "l2t" in of],
        counters=counters(runs),
        colours=charts.colours(runs),
        several=len({run.arm for run in runs}) < len(runs),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text)


def picture(panel: Panel, runs: Sequence[Run]) -> Picture:
    """Draw a panel."""
    rows = []
    for run in runs:
        for label, metric in panel.metrics:
            if series := run.series(metric):
                first, last = next(iter(series)), max(series)
                values = f"{series[first]:.4g} at step {first}, {series[last]:.4g} at step {last}"
                rows.append((run.name, label, f"{values}; from {min(series.values()):.4g} to {max(series.values()):.4g}"))
    return Picture(panel, Markup(charts.curves(panel, runs)), rows)


def cell(run: Run, metric: str, form: str) -> str:
    """A metric at the first and at the last step that has it."""
    values = list(run.series(metric).values())
    if not values:
        return "–"
    return form.format(values[0]) if len(values) == 1 else f"{form.format(values[0])} → {form.format(values[-1])}"


def stage_times(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Mean seconds of a step by stage, for each arm; what is in no stage is `other`."""
    found: dict[str, dict[str, float]] = {}
    for arm in dict.fromkeys(run.arm for run in runs):
        of_arm = [run for run in runs if run.arm == arm]
        steps = sum(len(run.series("timing_s/step")) for run in of_arm)
        if not steps:
            continue
        times = {stage: sum(run.total(f"timing_s/{stage}") for run in of_arm) / steps for stage in STAGES}
        whole = sum(run.total("timing_s/step") for run in of_arm) / steps
        times = {stage: seconds for stage, seconds in times.items() if seconds > 0}
        found[arm] = times | {"other": max(0.0, whole - sum(times.values()))}
    return found


def counters(runs: Sequence[Run]) -> list[tuple[str, str, float]]:
    """What was skipped or not graded: run, reason, how many rows in all; nothing where nothing was."""
    found = []
    for run in runs:
        names = sorted({name for values in run.steps.values() for name in values if name.startswith(COUNTERS)})
        found += [
            (run.name, plain(name.removeprefix("l2t/").removesuffix("/total")), total)
            for name in names
            if (total := run.total(name))
        ]
    return found
