"""The command `l2t-verl inspect`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from l2t_verl.compression.beta import BETA_TOKENS, with_beta_per_nat
from l2t_verl.config import L2TConfig, load_config
from l2t_verl.data import BENCHMARKS, load
from l2t_verl.data.datasets import named
from l2t_verl.evaluate.model import fingerprint
from l2t_verl.files import FileError, check_settings, write_whole
from l2t_verl.grading import Grader
from l2t_verl.inspector import scoring
from l2t_verl.inspector.page import page
from l2t_verl.inspector.records import COLUMNS, Record, Skipped, SourceError, read
from l2t_verl.inspector.rollouts import Results
from l2t_verl.inspector.run import Inspected, inspect_all
from l2t_verl.inspector.scoring import Scorer

FAILURES = (ValueError, NotImplementedError, OSError, FileError)


def inspect(
    source: Annotated[
        str,
        typer.Argument(
            help="JSONL, JSON or parquet file, verl's rollout_data_dir, an evaluation's folder, or - for a response on stdin"
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="folder or hub name of the scorer; without it the rewards in the files are shown")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="model that the penalty is measured against")] = None,
    compare: Annotated[
        Path | None, typer.Option(help="a second source, shown beside the first; rewards in it are kept as they are")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder; default runs/inspect/NAME of the source or run")] = None,
    segmenter: Annotated[str | None, typer.Option(help="short for --set episodes.method=NAME")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE below algorithm.l2t, as beta=0.6; repeat it")
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", help=f"THING=NAME for {', '.join(COLUMNS)}; dots lead into objects")
    ] = None,
    benchmark: Annotated[
        list[str] | None, typer.Option("--benchmark", "-b", help="NAME or NAME=PATH, problems of an evaluation's samples")
    ] = None,
    problem: Annotated[str | None, typer.Option(help="of a response on stdin")] = None,
    answer: Annotated[str | None, typer.Option(help="reference answer to a response on stdin")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="the first responses of each source only")] = None,
    chat: Annotated[bool, typer.Option(help="ask through the model's chat template")] = True,
    device: Annotated[str | None, typer.Option(help="default: a GPU if there is one")] = None,
    dtype: Annotated[str | None, typer.Option(help="default: float32 on a CPU, the model's own elsewhere")] = None,
) -> None:
    """Score recorded reasoning; write OUT/rollouts.jsonl as it comes and OUT/inspect.html. Start it again to go on."""
    try:
        # no longest response is known here: β is what it is for the one at which its default was measured
        config = with_beta_per_nat(configuration(settings, segmenter), BETA_TOKENS)
        place, precision = scoring.place_of(device, dtype)
        questions = questions_of(benchmark)
        names_of = columns_of(columns)
        if source == "-":
            records: list[Record | Skipped] = [spoken(sys.stdin.read(), problem, answer)]
        else:
            records = list(read(Path(source), names_of, questions))[:limit]
        others = list(read(compare, names_of, questions))[:limit] if compare else None
        folder = out or Path("runs") / "inspect" / name_of(source)
        about = {
            "model": model and {"name": model, "weights": fingerprint(model)},
            "reference": reference and {"name": reference, "weights": fingerprint(reference)},
            "settings": config.model_dump(mode="json"),
            "chat": chat,
            "dtype": precision,
        }
        folder.mkdir(parents=True, exist_ok=True)
        check_settings(folder / "settings.json", about)
        scorer = None
        if model is not None:
            loaded = scoring.load(model, place, precision)
            against = scoring.load(reference, place, precision) if reference else None
            scorer = Scorer(loaded, scoring.load_tokenizer(model), config, against, chat=chat)
        elif reference is not None:
            raise ValueError("--reference without --model: there is nothing to measure against it")
        with grading() as grader:
            report = lambda text: typer.echo(text, err=True)  # noqa: E731
            found = inspect_all(records, Results(folder / "rollouts.jsonl"), scorer, grader, report)
            beside = None
            if others is not None:
                beside = inspect_all(others, Results(folder / "compare.jsonl"), scorer, grader, report, keep_known=True)
        names = [source, str(compare)] if beside else [source]
        text = page(found, beside, names=names, about=describe(model, reference, config))
        write_whole(folder / "inspect.html", text)
    except FAILURES as error:
        typer.echo(f"l2t-verl inspect: {error}", err=True)
        raise typer.Exit(1) from error
    finish(found, beside, folder)


def configuration(settings: Sequence[str] | None, segmenter: str | None = None) -> L2TConfig:
    """The method's settings, as NAME=VALUE each.

    Raises:
        ConfigError: one of them is not right.
        ValueError: one is no setting at all.
    """
    given = [*(settings or ()), *([f"episodes.method={segmenter}"] if segmenter else ())]
    try:
        tree: Any = OmegaConf.to_container(OmegaConf.from_dotlist(given), resolve=True)
    except (OmegaConfBaseException, YAMLError, TypeError, AttributeError, IndexError, KeyError, AssertionError) as error:
        raise ValueError(f"--set takes NAME=VALUE below algorithm.l2t: {error}") from error
    return load_config(tree)


def columns_of(items: Sequence[str] | None) -> dict[str, str]:
    """The names of columns, by what stands in them.

    Raises:
        ValueError: one is not THING=NAME, or comes twice.

    Example:
        >>> columns_of(["answer=truth"])
        {'answer': 'truth'}
    """
    found = dict(item.split("=", 1) for item in items or () if item.split("=", 1)[0] in COLUMNS and "=" in item)
    if len(found) < len(items or ()):
        raise ValueError(f"--column takes THING=NAME, once for each of {', '.join(COLUMNS)}")
    return found


def questions_of(benchmarks: Sequence[str] | None) -> dict[tuple[str, str], Any]:
    """The problems of benchmarks, by benchmark and id.

    Raises:
        DataError: an unknown name, no such file, no network.
    """
    found: dict[tuple[str, str], Any] = {}
    for item in benchmarks or ():
        name, _, path = item.partition("=")
        named(name, BENCHMARKS)
        found |= {(name, problem.id): problem for problem in load(name, Path(path) if path else None)}
    return found


def spoken(text: str, problem: str | None, answer: str | None) -> Record | Skipped:
    """A response that came on standard input.

    Raises:
        SourceError: its problem or its answer is not given.
    """
    if not problem or not answer:
        raise SourceError("a response on stdin needs --problem and --answer")
    if not text.strip():
        return Skipped("stdin", "the response is empty")
    return Record("stdin", problem, None, text, (answer,), None)


def name_of(source: str) -> str:
    """What the results of a source are called: of a run's dumps the run's name.

    Example:
        >>> name_of("runs/a/rollouts"), name_of("x/answers.jsonl"), name_of("-")
        ('a', 'answers', 'stdin')
    """
    path = Path(source).resolve()
    return "stdin" if source == "-" else path.parent.name if path.name == "rollouts" else path.stem


def describe(model: str | None, reference: str | None, config: L2TConfig) -> list[tuple[str, str]]:
    """What the page says of how the rewards came about."""
    if model is None:
        return [("rewards", "as recorded")]
    measured = f"{config.compression.estimator} to {reference}, β {config.beta}"
    return [
        ("scored by", model),
        ("penalty", measured if reference else "not measured: no --reference"),
        ("J", config.gain.kind),
        ("episodes", f"{config.episodes.method}, else {config.episodes.fallback}"),
    ]


@contextmanager
def grading() -> Iterator[Grader]:
    """A grader in a process of its own, which starts with the first answer that needs one."""
    grader = Grader(1)
    try:
        yield grader
    finally:
        grader.close()


def finish(found: Inspected, beside: Inspected | None, folder: Path) -> None:
    """Say what became of everything, and exit with 1 if something was wrong with any of it."""
    for inspected in filter(None, (found, beside)):
        aside = len(inspected.skipped) - inspected.faults
        note = f", {aside} forced answers left aside" if aside else ""
        typer.echo(f"{len(inspected.rollouts)} rollouts, {inspected.faults} skipped{note}")
    typer.echo(f"rollouts.jsonl and inspect.html in {folder}")
    if found.faults or (beside and beside.faults):
        raise typer.Exit(1)
