"""python -m l2t_verl.data NAME: a training set and its validation problems as verl's parquet files."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import l2t_verl
from l2t_verl.data import rows
from l2t_verl.data.build import Built, as_row, build
from l2t_verl.data.check import report
from l2t_verl.data.code import code_problem_of
from l2t_verl.data.datasets import ALL, BENCHMARKS, TRAINING, load, named
from l2t_verl.data.instruction import check_instruction, instruction, opens_thinking
from l2t_verl.data.problems import Problem, problem_of
from l2t_verl.data.rows import DataError
from l2t_verl.thought import MARKS, Marks

app = typer.Typer(add_completion=False)


@app.command()
def main(
    name: Annotated[str, typer.Argument(help=f"data set: {', '.join(TRAINING)}; or check, with a FILE")],
    file: Annotated[Path | None, typer.Argument(help="of check: rows that cannot be won, or by a wrong answer")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="file or folder in its published form; else the hub")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the files; default runs/data/NAME")] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME or NAME=PATH of a benchmark whose problems are removed (repeat it); 'none' for no benchmark"
        ),
    ] = None,
    kind: Annotated[
        str,
        typer.Option("--instruction", help="adaptive, fixed (at most --episodes), none; given: the question alone"),
    ] = "adaptive",
    episodes: Annotated[int, typer.Option(min=1, help="of --instruction fixed")] = 30,
    tokenizer: Annotated[
        str | None, typer.Option(help="model whose chat template is looked at, for a thought that it opens already")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="problems to draw; default what the data set says, or all")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the draw")] = 0,
    think_open: Annotated[str, typer.Option(help="mark that opens a thought (gain.think_open)")] = MARKS.opening,
    think_close: Annotated[str, typer.Option(help="mark that closes it (gain.think_close)")] = MARKS.closing,
) -> None:
    """Build OUT/train.parquet, OUT/validation.parquet (where benchmarks for it are at hand) and OUT/manifest.json."""
    if name == "check":
        _check(file)
        return
    try:
        dataset = named(name, TRAINING)
        instructed, marks = check_instruction(kind), Marks.of(think_open, think_close)
        folder = out if out is not None else Path("runs") / "data" / name
        sources = benchmark_sources(against, dataset.task)
        opened = tokenizer is not None and opens_thinking(_tokenizer(tokenizer), marks)
        text = instruction(instructed, episodes=episodes, opened=opened, task=dataset.task, marks=marks)
        problems = load(name, source)
        benchmarks = {benchmark: load(benchmark, path) for benchmark, path in sources.items()}
        since = time.monotonic()
        built = build(problems, benchmarks, sample=sample or dataset.sample, seed=seed, report=typer.echo)
        if not built.kept:
            raise DataError(f"no problem of {name} is left:\n{summary(name, problems, built)}")
        train = [as_row(problem, name, "train", i, text) for i, problem in enumerate(built.kept)]
        validation = [
            as_row(problem, benchmark, "validation", i, text)
            for benchmark in dataset.validation
            for i, problem in enumerate(benchmarks.get(benchmark, ()))
        ]
        inputs = {key: rows.sha256(path) if path else ALL[key].repository for key, path in {name: source, **sources}.items()}
        manifest = {
            "data set": name,
            "note": dataset.note,
            "l2t_verl": l2t_verl.__version__,
            "seed": seed,
            "instruction": text,
            "prompt opens <think>": opened if tokenizer else None,
            "marks of the thought": [marks.opening, marks.closing],
            "inputs": inputs,
            "read": len(problems),
            "kept": len(built.kept),
            "dropped": dict(built.dropped),
            "first dropped": built.examples,
            "truths taken out of what stands around them": len(rewritten(built.kept)),
        }
        files = {"train.parquet": train} | ({"validation.parquet": validation} if validation else {})
        write(folder, files, manifest)
    except (DataError, OSError, ValueError) as error:
        typer.echo(f"l2t_verl.data: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(summary(name, problems, built))
    for line in normalisations(built.kept):
        typer.echo(line)
    typer.echo(f"prompt: {text}")
    if tokenizer is None:
        typer.echo("no --tokenizer: if its chat template opens <think> by itself, name it, or the prompt asks for it again")
    typer.echo(f"{', '.join(f'{key} ({len(value)} rows)' for key, value in files.items())} and manifest.json in {folder}")
    typer.echo(f"{time.monotonic() - since:.0f} s after reading")


def _check(file: Path | None) -> None:
    """Name the rows of a file that cannot be won, or can be won by a wrong answer.

    Exits with 1 if there is one, with 2 if the file cannot be read.
    """
    try:
        if file is None:
            raise DataError("check needs the file whose rows are looked at: python -m l2t_verl.data check FILE")
        since, found = time.monotonic(), rows.file_rows(file)
        rows.check_rows(found)
        read = code_problem_of if "entry_point" in found[0] or "test_list" in found[0] else problem_of
        problems = [read(row, position) for position, row in enumerate(found)]
    except (DataError, OSError, *rows.OF_ANOTHER_FORM) as error:
        typer.echo(f"l2t_verl.data: {file or 'check'} cannot be checked: {error}", err=True)
        raise typer.Exit(2) from error
    faults = 0
    for faults, line in enumerate(report(problems), 1):  # noqa: B007
        typer.echo(line)
    for line in normalisations(problems):
        typer.echo(line)
    typer.echo(f"{file}: {len(problems)} rows, {faults} of them at fault; {time.monotonic() - since:.0f} s")
    if faults:
        raise typer.Exit(1)


def rewritten(problems: Sequence[Problem]) -> list[Problem]:
    """The problems whose answer their file writes in another way than it is read."""
    return [problem for problem in problems if problem.written and problem.answer]


def normalisations(problems: Sequence[Problem], most: int = 10) -> list[str]:
    """Say how many answers are read in another way than their file writes them, and show the first ones."""
    other = rewritten(problems)
    if not other:
        return []
    shown = [f"  {problem.id}: {problem.written[-60:]!r} is read as {problem.answer[:60]!r}" for problem in other[:most]]
    return [f"{len(other)} truths are taken out of what stands around them", *shown]


def benchmark_sources(against: Sequence[str] | None, task: str) -> dict[str, Path | None]:
    """Read the option `--against`.

    Args:
        against: NAME, NAME=PATH or none, each; None if the option was not given.
        task: of the data set, which a benchmark has to share to be taken by default.

    Returns:
        Benchmarks by name, each with its file, or None for the hub.

    Raises:
        DataError: a name is not known.
    """
    if against is None:
        return {key: None for key, benchmark in BENCHMARKS.items() if benchmark.task == task}
    found: dict[str, Path | None] = {}
    for item in against:
        key, _, path = item.partition("=")
        if key == "none":
            continue
        named(key, BENCHMARKS)
        found[key] = Path(path) if path else None
    return found


def summary(name: str, problems: Sequence[Problem], built: Built) -> str:
    """Say how many problems were kept, and why the others were dropped, with an example of each reason."""
    lines = [f"{name}: {len(problems)} problems read, {len(built.kept)} kept"]
    lines += [f"  {count:6d} dropped: {reason}; {built.examples[reason]}" for reason, count in built.dropped.most_common()]
    if TRAINING[name].note:
        lines.append(f"  note: {TRAINING[name].note}")
    return "\n".join(lines)


def write(folder: Path, files: Mapping[str, list[dict[str, Any]]], manifest: dict[str, Any]) -> None:
    """Write the files, each whole or not at all, and the manifest with their hashes last.

    Raises:
        DataError: the disk is full, or the folder cannot be written; nothing that stood there is harmed.
    """
    import pyarrow
    import pyarrow.parquet

    partial = {folder / file: folder / f".{file}.partial" for file in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for (_, content), path in zip(files.items(), partial.values(), strict=True):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
        (folder / "manifest.json").unlink(missing_ok=True)  # until it stands there again, the folder is not whole
        for path, written in partial.items():
            os.replace(written, path)
        manifest = manifest | {"outputs": {path.name: rows.sha256(path)[path.name] for path in partial}}
        (folder / ".manifest.partial").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        os.replace(folder / ".manifest.partial", folder / "manifest.json")
    except OSError as error:
        raise DataError(f"{folder} could not be written: {error}; make room or name another folder by --out") from error
    finally:
        for path in (*partial.values(), folder / ".manifest.partial"):
            path.unlink(missing_ok=True)


def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except OSError as error:
        raise DataError(f"--tokenizer {name} cannot be loaded: {str(error)[:200]}; name a local folder") from error


if __name__ == "__main__":
    app()
