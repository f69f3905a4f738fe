"""The command `l2t-verl report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from l2t_verl.files import FileError, write_whole
from l2t_verl.inspector.page import page
from l2t_verl.inspector.records import Record, Skipped, SourceError, read
from l2t_verl.inspector.rollouts import recorded
from l2t_verl.inspector.run import Inspected
from l2t_verl.report.page import write_report
from l2t_verl.report.runs import ReportError, Run, read_runs

MOST = 60  # rollouts of a run that are shown if nobody says which


def report(
    runs: Annotated[
        list[str],
        typer.Argument(help="folders of runs or files of their metrics, or ARM=FOLDER: runs of one arm are its seeds"),
    ],
    out: Annotated[Path, typer.Option(help="folder of the page")] = Path("runs") / "report",
    step: Annotated[
        list[int] | None, typer.Option(help="whose rollouts are shown; repeat it. Default: first, middle and last")
    ] = None,
) -> None:
    """Write OUT/report.html, and a page of rollouts for each run that dumped some. Runs may still be going."""
    try:
        found = read_runs(runs)
        links = {}
        for number, run in enumerate(found, 1):
            if shown := rollouts_of(run, step):
                name = f"rollouts-{number}.html"
                out.mkdir(parents=True, exist_ok=True)
                write_whole(out / name, page(shown, None, names=[run.name], about=[("rewards", "as the trainer gave them")]))
                links[run.name] = name
        write_report(found, out / "report.html", links)
    except (ReportError, SourceError, FileError, OSError) as error:
        typer.echo(f"l2t-verl report: {error}", err=True)
        raise typer.Exit(1) from error
    for run in found:
        for note in run.notes:
            typer.echo(f"{run.name}: {note}", err=True)
    typer.echo(f"report.html and {len(links)} pages of rollouts in {out}")


def rollouts_of(run: Run, steps: Sequence[int] | None) -> Inspected | None:
    """The rollouts of some steps, with the rewards that the trainer gave; None if nothing was dumped.

    Raises:
        ReportError: a step that was asked for was not dumped.
    """
    folder = run.folder / "rollouts"
    dumped = sorted(int(file.stem) for file in folder.glob("*.jsonl") if file.stem.isascii() and file.stem.isdigit())
    if not dumped:
        return None
    wanted = steps or sorted({dumped[0], dumped[len(dumped) // 2], dumped[-1]})
    if absent := sorted(set(wanted) - set(dumped)):
        raise ReportError(f"{folder} holds no rollouts of step {absent[0]}; it has {dumped[0]} to {dumped[-1]}")
    found = Inspected()
    for number in wanted:
        taken = 0
        for item in read(folder / f"{number}.jsonl"):
            if isinstance(item, Record) and steps is None and taken >= MOST // len(wanted):
                continue
            taken += isinstance(item, Record)
            _add(found, item)
    return found


def _add(found: Inspected, item: Record | Skipped) -> None:
    if isinstance(item, Skipped):
        found.skipped.append(item)
        return
    try:
        found.rollouts.append(recorded(item))
    except ValueError as error:
        found.skipped.append(Skipped(item.place, str(error)))
