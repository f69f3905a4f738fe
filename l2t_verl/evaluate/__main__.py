"""python -m l2t_verl.evaluate run MODEL …: samples, grades, a table; … compare A B: two or more of them, paired."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from l2t_verl.data import BENCHMARKS, DataError, Problem, load, rows
from l2t_verl.data.build import checked
from l2t_verl.data.datasets import named
from l2t_verl.data.instruction import check_instruction
from l2t_verl.evaluate.engines import Engine, EngineError, ServerEngine, VllmEngine, check_address
from l2t_verl.evaluate.model import ModelError, fingerprint, resolved
from l2t_verl.evaluate.parallel import EngineProcesses, engines_wanted, groups_of_gpus
from l2t_verl.evaluate.results import results, table
from l2t_verl.evaluate.run import Settings, lacking, sample_all, tasks_of
from l2t_verl.evaluate.store import Store, without_nan
from l2t_verl.files import FileError, check_settings, write_whole
from l2t_verl.grading import Grader
from l2t_verl.sandbox import SandboxError, require
from l2t_verl.thought import MARKS, Marks

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
SECRET = {"token", "key", "secret", "password"}  # parts of an option's name
FAILURES = (DataError, EngineError, ModelError, FileError, SandboxError, ValueError, OSError)


@app.command()
def run(
    model: Annotated[str, typer.Argument(help="hub name, folder, or a checkpoint folder of verl's")],
    benchmark: Annotated[
        list[str], typer.Option("--benchmark", "-b", help=f"NAME or NAME=PATH, repeat it: {', '.join(BENCHMARKS)}")
    ],
    out: Annotated[Path | None, typer.Option(help="folder; default runs/evaluate/MODEL")] = None,
    samples: Annotated[int, typer.Option(min=1, help="n of each question")] = 20,
    temperature: Annotated[float, typer.Option(min=0)] = 0.6,
    top_p: Annotated[float, typer.Option(min=0, max=1)] = 0.95,
    max_tokens: Annotated[int, typer.Option(min=1, help="of a response")] = 16384,
    budget: Annotated[
        list[int] | None, typer.Option(min=1, help="tokens of thought at which the answer is forced; repeat it")
    ] = None,
    kind: Annotated[
        str, typer.Option("--instruction", help="adaptive, fixed, none: as in the training data; given: the question alone")
    ] = "adaptive",
    limit: Annotated[int | None, typer.Option(min=1, help="the first questions of each benchmark only")] = None,
    seed: Annotated[int, typer.Option(help="of the samples")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="samples drawn together, by one engine; a crash costs these")] = 512,
    server: Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible server, with /v1; else vLLM here")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="of the model behind --server; --budget needs it")] = None,
    parallel: Annotated[int, typer.Option(min=1, help="requests at once to --server")] = 32,
    data_parallel: Annotated[
        str, typer.Option(help="engines side by side, which take turns at whole batches: a number, or auto for all GPUs")
    ] = "auto",
    max_model_len: Annotated[int | None, typer.Option(help="vLLM's; default what the model allows")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE for vLLM's LLM, as tensor_parallel_size=2; repeat it")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="for grading one sample")] = 10.0,
    think_open: Annotated[str, typer.Option(help="mark that opens a thought")] = MARKS.opening,
    think_close: Annotated[str, typer.Option(help="mark that closes it; what follows it is graded")] = MARKS.closing,
) -> None:
    """Sample, grade, and write OUT/samples.jsonl, results.json and results.md; start it again to go on after a crash."""
    try:
        budgets, marks = tuple(sorted(set(budget or ()))), Marks.of(think_open, think_close)
        sampling = samples, temperature, top_p, max_tokens, seed, check_instruction(kind), budgets, batch
        settings = Settings(*sampling, marks.opening, marks.closing)
        if server:
            check_address(server)
        if server and settings.budgets and tokenizer is None:
            raise ValueError("--budget continues a thought, for which --tokenizer has to name the server's model")
        if server and data_parallel != "auto":
            raise ValueError("--data-parallel starts engines here; a --server is asked by --parallel requests at once")
        problems, left_out, inputs = benchmarks_of(benchmark, limit)
        if server and tokenizer is None:
            typer.echo(
                "no --tokenizer: if the server's chat template opens <think>, name it, or the prompt asks for it again"
            )
        if any(problem.tests is not None for of in problems.values() for problem in of):
            require()
        folder = out or Path("runs") / "evaluate" / model.strip("/").replace("/", "--")
        path = model if server else resolved(model, folder / "merged")
        about = {
            "model": model,
            "weights": fingerprint(path),
            "server": server,
            "tokenizer": tokenizer,
            "benchmarks": inputs,
            "max_model_len": max_model_len,
            "options": sorted(map(without_secret, option or ())),
            "seconds": seconds,
            **asdict(settings),
        }
        folder.mkdir(parents=True, exist_ok=True)
        check_settings(folder / "settings.json", json.loads(json.dumps(about)))
        store = Store(folder / "samples.jsonl")
        engine: Engine | EngineProcesses
        if server:
            engine = server_of(server, path, tokenizer, parallel, marks)
        else:
            options = options_of(option)
            batches = max(len(lacking(tasks, settings, store)) for tasks in tasks_of(problems, settings))
            start = partial(VllmEngine, path, max_model_len=max_model_len, seed=seed, options=options, marks=marks)
            engine = engines_of(start, data_parallel, batches, options)
        grader = Grader(max(1, multiprocessing.cpu_count() // 2), seconds)
        try:
            sample_all(engine, problems, settings, store, grader)
        finally:
            grader.close()
            engine.close()
        found = results(store.samples, problems, left_out, settings)
        text = table(found, model)
        written = json.dumps(without_nan({"settings": about, "results": found}), indent=1, allow_nan=False)
        write_whole(folder / "results.json", written + "\n")
        write_whole(folder / "results.md", text)
    except FAILURES as error:
        typer.echo(f"l2t_verl.evaluate: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(text)
    for name, entry in found.items():
        if count := sum(entry["not graded"].values()):
            typer.echo(f"{name}: {count} samples have no grade and count as wrong; samples.jsonl says which, as `grading`")
    typer.echo(f"samples, results.json and results.md in {folder}")


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="folders of evaluations; the first is what the others are compared with")
    ],
    out: Annotated[Path, typer.Option(help="folder of compare.md and the plots")] = Path("runs") / "evaluate" / "compare",
    published: Annotated[
        str | None,
        typer.Option(help="model of the paper whose printed numbers stand beside ours, as DeepScaleR-1.5B-Preview"),
    ] = None,
) -> None:
    """Pair runs by question: differences with intervals, ratio of tokens, and plots."""
    from l2t_verl.evaluate.compare import write_comparison

    try:
        typer.echo(write_comparison(runs, out, published))
    except FAILURES as error:
        typer.echo(f"l2t_verl.evaluate: {error}", err=True)
        raise typer.Exit(1) from error


def benchmarks_of(
    names: Sequence[str], limit: int | None
) -> tuple[dict[str, list[Problem]], dict[str, int], dict[str, Any]]:
    """The problems of each benchmark, how many were left out since their own answer is not graded as right, and hashes.

    Raises:
        DataError: an unknown name, no such file, no network, a missing column, no problem left.
    """
    problems, left_out, inputs = {}, {}, {}
    for item in names:
        name, _, path = item.partition("=")
        dataset = named(name, BENCHMARKS)
        source = Path(path) if path else None
        known = load(name, source)[:limit]
        problems[name] = [problem for problem, fault in checked(known) if fault is None]
        left_out[name] = len(known) - len(problems[name])
        if not problems[name]:
            raise DataError(f"no problem of {item} has an answer that can be graded")
        ids = [problem.id for problem in problems[name]]
        if len(set(ids)) < len(ids):
            raise DataError(f"{item}: two problems have the same id {next(i for i in ids if ids.count(i) > 1)!r}")
        if left_out[name]:
            typer.echo(
                f"{name}: {left_out[name]} of {len(known)} problems are left out: their own answer is not graded as right"
            )
        inputs[name] = (rows.sha256(source) if source else {"hub": dataset.repository}) | {"questions": len(ids)}
    return problems, left_out, inputs


def server_of(url: str, model: str, tokenizer: str | None, parallel: int, marks: Marks) -> ServerEngine:
    """A server, with the tokenizer that its model is said to have."""
    from transformers import AutoTokenizer

    known = AutoTokenizer.from_pretrained(tokenizer) if tokenizer else None
    return ServerEngine(url, model, tokenizer=known, parallel=parallel, marks=marks)


def engines_of(
    start: Callable[[], Engine], data_parallel: str, batches: int, options: Mapping[str, Any]
) -> Engine | EngineProcesses:
    """One engine in this process, or several in processes of their own, each with its GPUs.

    Raises:
        EngineError: one does not start.
        ValueError: more engines than the GPUs allow.
    """
    per_engine = int(options.get("tensor_parallel_size", 1)) * int(options.get("pipeline_parallel_size", 1))
    groups = groups_of_gpus(per_engine)
    count = engines_wanted(data_parallel, groups, batches, per_engine)
    if count == 1:
        return start()
    typer.echo(f"{count} engines side by side, in turn for {batches} batches; --batch says how large these are")
    return EngineProcesses(start, groups[:count] or [None] * count)


def options_of(items: Sequence[str] | None) -> dict[str, Any]:
    """Options of vLLM's, by name.

    Raises:
        ValueError: an option that is none.

    Example:
        >>> options_of(["tensor_parallel_size=2", "dtype=float16"])
        {'tensor_parallel_size': 2, 'dtype': 'float16'}
    """
    given = dict(item.split("=", 1) for item in items or () if "=" in item)
    if len(given) < len(items or ()):
        raise ValueError("--option takes NAME=VALUE, each name once")
    return {name: _value(text) for name, text in given.items()}


def without_secret(item: str) -> str:
    """An option as it is written down: a token or key is not.

    Example:
        >>> without_secret("hf_token=abc"), without_secret("dtype=float16")
        ('hf_token=(not written down)', 'dtype=float16')
    """
    name, _, _ = item.partition("=")
    is_secret = any(part in SECRET for part in name.lower().split("_"))
    return f"{name}=(not written down)" if is_secret else item


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    app()
