"""Training runs as their folders hold them: finished, under way, crashed, or without some of the metrics."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l2t_verl.inspector.visible import plain

LAST = 2**53  # no step is beyond it: numbers of a plot are floats
Series = dict[int, float]  # step → value


class ReportError(ValueError):
    """A run that cannot be reported, with the remedy."""


@dataclass
class Run:
    """One run.

    Attributes:
        name: its folder's, or what it was given.
        arm: runs of one arm differ in their seed and are drawn as one.
        folder: where it is.
        steps: metrics of each step, in order.
        notes: what a reader should know: lines that do not parse, steps that were done twice.
    """

    name: str
    arm: str
    folder: Path
    steps: dict[int, dict[str, float]]
    notes: list[str] = field(default_factory=list)

    def series(self, metric: str) -> Series:
        """A metric by step, without the steps that lack it or have no finite value.

        Example:
            >>> Run("a", "a", Path(), {1: {"x": 2.0}, 2: {}, 3: {"x": float("nan")}}).series("x")
            {1: 2.0}
        """
        found = {step: values.get(metric) for step, values in self.steps.items()}
        return {step: value for step, value in found.items() if value is not None and math.isfinite(value)}

    def total(self, metric: str) -> float:
        """The sum of a metric over the steps."""
        return sum(self.series(metric).values())


def read_runs(given: Sequence[str]) -> list[Run]:
    """Read runs, each a place or ARM=PLACE; several places of one arm are its seeds.

    Raises:
        ReportError: a place is not there, or holds no metrics.
    """
    runs = []
    for item in given:
        arm, mark, path = item.rpartition("=")
        runs.append(read_run(Path(path), plain(arm) if mark else name_of(Path(path))))
    counts = Counter(run.name for run in runs)
    for index, run in enumerate(runs):
        if counts[run.name] > 1:
            run.name = f"{run.name} ({index + 1})"
    return runs


def name_of(place: Path) -> str:
    """A folder's name, a file's without its ending; in it, what is not to be seen is named."""
    return plain(place.stem if place.is_file() else place.resolve().name)


def read_run(place: Path, arm: str) -> Run:
    """Read a run's metrics: of all its starts, the later ones counting where they did a step again.

    The later of two starts is the one that begins with a later step, or else the one whose file is newer: clocks jump.

    Args:
        place: the run's folder, with metrics*.jsonl in it, or the one file that verl's logger wrote.
        arm: the run's arm.

    Raises:
        ReportError: the place is not there, or holds no metrics.
    """
    if not place.exists():
        raise ReportError(f"{place} is not there; name a run's folder or its file of metrics, or ARM=FOLDER")
    folder, files = (place.parent, [place]) if place.is_file() else (place, list(place.glob("metrics*.jsonl")))
    run = Run(name_of(place), arm, folder, {})
    starts = [(*lines_of(file), file) for file in files]
    starts.sort(key=lambda start: (min((row["step"] for row in start[0]), default=0), start[2].stat().st_mtime))
    for rows, bad, file in starts:
        if bad:
            left_out = f"{len(bad)} lines do not parse (the first is line {bad[0]}); they are left out"
            run.notes.append(f"{plain(file.name)}: {left_out}")
        again = [row["step"] for row in rows if row["step"] in run.steps]
        if again:
            run.notes.append(f"steps from {min(again)} on were done again after a restart; the later ones are shown")
        for row in rows:
            run.steps[row["step"]] = row["data"]
    if not run.steps:
        raise ReportError(
            f"{place} holds no metrics: verl's logger has to have `file` (trainer.logger); name the file that it "
            "writes, or let VERL_FILE_LOGGER_PATH name a file metrics*.jsonl in this folder, as the recipes do"
        )
    run.steps = dict(sorted(run.steps.items()))
    return run


def lines_of(file: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The lines of a file that verl logs to, and the numbers of those that are none; the last may still be written.

    Of the metrics those stay that are numbers.
    """
    text = file.read_text(encoding="utf-8", errors="replace")
    rows, bad = [], []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            row = json.loads(line)
            step = row["step"]
            if type(step) is not int or not 0 <= step <= LAST:
                raise ValueError(f"{step!r} is no step")
            rows.append({"step": step, "data": {name: _number(of) for name, of in row["data"].items() if _is_number(of)}})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            bad.append(number)
    return rows, bad


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # of an integer with hundreds of digits
        return math.inf


def common(runs: Iterable[Run], metric: str) -> bool:
    """Whether any run has a metric."""
    return any(run.series(metric) for run in runs)
