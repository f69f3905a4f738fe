"""The command `l2t-verl preflight`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from l2t_verl.compression.beta import BETA_TOKENS, with_beta_per_nat
from l2t_verl.config import L2TConfig
from l2t_verl.data.instruction import check_instruction
from l2t_verl.data.rows import sha256
from l2t_verl.evaluate.__main__ import server_of
from l2t_verl.evaluate.engines import Engine, EngineError, VllmEngine, check_address
from l2t_verl.evaluate.model import ModelError, fingerprint, resolved
from l2t_verl.evaluate.run import Settings
from l2t_verl.evaluate.store import Store, without_nan
from l2t_verl.files import FileError, check_settings, write_whole
from l2t_verl.gain.kinds import check_kind
from l2t_verl.inspector import scoring
from l2t_verl.inspector.command import columns_of, configuration
from l2t_verl.inspector.records import COLUMNS, Skipped, read
from l2t_verl.inspector.rollouts import key_of
from l2t_verl.inspector.scoring import Scorer
from l2t_verl.preflight.figures import outcomes, sight
from l2t_verl.preflight.page import page
from l2t_verl.preflight.responses import Asked, Response, asked, groups_of, recorded, sampled
from l2t_verl.preflight.seen import CONFIGURED, Looker, Seen, SeenFile
from l2t_verl.preflight.verdict import Advice, Verdict, verdict

BATCH = 64  # samples that are drawn together
FAILURES = (ValueError, NotImplementedError, OSError, FileError, EngineError, ModelError)


def preflight(
    model: Annotated[str, typer.Argument(help="the training's start: hub name, folder, or a checkpoint folder of verl's")],
    data: Annotated[
        str | None, typer.Argument(help="questions to sample: verl's training file, a data set's NAME, or NAME=PATH")
    ] = None,
    rollouts: Annotated[
        Path | None, typer.Option(help="responses that are there already, several to a question, in place of DATA")
    ] = None,
    questions: Annotated[int, typer.Option(min=2, help="of DATA, drawn at random")] = 100,
    samples: Annotated[int, typer.Option(min=2, help="responses to each: the group, best as large as the training's")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="longest response, of the training too")] = 1600,
    kind: Annotated[
        str | None, typer.Option("--instruction", help="adaptive, fixed, none, given; default: as DATA and episodes ask for")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0, help="for looking at responses; 0: until all are done")] = 15.0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE below algorithm.l2t, as gain.kind=probability; repeat it")
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", help=f"of --rollouts: THING=NAME for {', '.join(COLUMNS)}")
    ] = None,
    server: Annotated[str | None, typer.Option(help="URL of a server with the model, with /v1, to sample from")] = None,
    out: Annotated[Path | None, typer.Option(help="folder; default runs/preflight/MODEL-DATA")] = None,
    seed: Annotated[int, typer.Option(help="of questions, samples and places of needless steps")] = 0,
    chat: Annotated[bool, typer.Option(help="ask through the model's chat template")] = True,
    device: Annotated[str | None, typer.Option(help="default: a GPU if there is one")] = None,
    dtype: Annotated[str | None, typer.Option(help="default: float32 on a CPU, the model's own elsewhere")] = None,
) -> None:
    """Say before a training what to train with; write OUT/preflight.md. Start it again to go on after a crash.

    Exit status: 0 L2T is worth a try, 3 take a length penalty, 4 take GRPO, 5 take other questions, 1 it failed.
    """
    try:
        if (data is None) == (rollouts is None):
            raise ValueError("name DATA to sample, or --rollouts FILE, and not both")
        if rollouts is not None and server is not None:
            raise ValueError("--server samples, and --rollouts are there already: leave one of them out")
        if data is not None and not chat:
            raise ValueError("DATA are asked through the chat template; --no-chat is for --rollouts")
        if server is not None:
            check_address(server)
        if kind is not None:
            check_instruction(kind)
        config, names = configuration(settings), columns_of(columns)
        check_kind(config.gain.kind)
        folder = out or Path("runs") / "preflight" / "-".join(map(_plain, (model, data or str(rollouts))))
        path = resolved(model, folder / "merged")
        place, precision = scoring.place_of(device, dtype)
        source = rollouts or Path((data or "").rpartition("=")[2])
        about = {"model": model, "weights": fingerprint(path), "seed": seed, "chat": chat, "dtype": precision}
        about |= {"data": data, "rollouts": rollouts and str(rollouts), "settings": config.model_dump(mode="json")}
        about |= {"file": sha256(source) if source.exists() else None, "samples": samples, "max_tokens": max_tokens}
        about |= {"server": server, "instruction": kind}
        tokenizer, notes, skipped = scoring.load_tokenizer(path), list[str](), list[Skipped]()
        if data is not None:
            drawn = asked(data, questions, seed)
            words = check_instruction(kind or _instruction(drawn, config))
            sampling = samples, 1.0, 1.0, max_tokens, seed, words, (), BATCH  # as verl samples: of the whole distribution
            as_trained = Settings(*sampling, config.gain.think_open, config.gain.think_close)
            notes.append(f"{drawn.left_out} questions left out: their own answer does not grade as right")
        else:
            records = list(read(source, names))
        folder.mkdir(parents=True, exist_ok=True)
        check_settings(folder / "settings.json", json.loads(json.dumps(about)))
        if data is not None:
            engine = partial(_engine, model, path, server, as_trained)
            responses, said = sampled(engine, tokenizer, drawn.problems, as_trained, Store(folder / "samples.jsonl"))
            notes += said
        scorer = Scorer(scoring.load(path, place, precision), tokenizer, with_beta_per_nat(config, BETA_TOKENS), chat=chat)
        if data is None:
            responses, skipped = recorded(records, scorer, _say)
        found = outcomes(groups_of(responses))
        looked, left, unscored = look_at_all(responses, Looker(scorer, seed), SeenFile(folder / "seen.jsonl"), minutes)
        seen = sight(looked, (config.episodes.method, CONFIGURED, config.gain.kind), seed)
        faults = sum(item.is_fault for item in skipped) + unscored
        notes += [
            f"looked at {len(looked)} of {len(responses)} responses"
            + (f": {minutes:g} minutes were over; start it again to look at more" if left else ""),
            f"{faults} responses were skipped",
            f"J: {config.gain.kind}, forced by {config.gain.forcing_suffix!r}; episodes: {config.episodes.method}, else "
            f"{config.episodes.fallback}; seed {seed}",
            "a needless step is a copy of an earlier one, or one of a response to another question",
            "intervals are 95 %, over questions",
        ]
        advice = verdict(found, seen)
        own = [f"++algorithm.l2t.{item}" for item in settings or ()] if advice.advice is Advice.L2T else []
        advice = replace(advice, settings=(*advice.settings, *own))
        title = f"Before training {model} on {data or rollouts}"
        text = page(title, advice, found, seen, config, max_tokens, notes)
        write_whole(folder / "preflight.json", _json(advice, found, seen))
        write_whole(folder / "preflight.md", text)
    except FAILURES as error:
        typer.echo(f"l2t-verl preflight: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(text)
    typer.echo(f"preflight.md and preflight.json in {folder}")
    raise typer.Exit(advice.advice.value)


def look_at_all(
    responses: Sequence[Response], looker: Looker, kept: SeenFile, minutes: float
) -> tuple[list[Seen], int, int]:
    """Look at responses, question after question, until the time is over.

    Own steps are compared with needless ones in the first right response of a question that has two episodes or more.

    Args:
        responses: all of them.
        looker: at each.
        kept: what was looked at before, which is not looked at again.
        minutes: for those that are new; 0 for no limit.

    Returns:
        What was seen, of as many responses as there was time for: at least one question's more than before. How many were
        left for another start, and how many cannot be scored.
    """
    groups: dict[str, list[Response]] = {}
    for response in responses:
        groups.setdefault(response.group, []).append(response)
    found: list[Seen] = []
    end, new, unscored, names = time.monotonic() + 60 * minutes, 0, 0, list(groups)
    with tqdm(total=len(responses), desc="J", unit="response", disable=None) as bar:
        for number, (name, group) in enumerate(groups.items()):
            missing = any(key_of(response.record) not in kept.by_key for response in group)
            if missing and minutes and new and time.monotonic() > end:
                break
            other = groups[names[(number + 1) % len(names)]]
            foreign = [response.record.response for response in other] if len(names) > 1 else []
            compares = True
            for response in group:
                bar.update(1)
                seen = kept.by_key.get(key_of(response.record))
                if seen is None:
                    wanted = number if compares and response.outcome > 0 else None
                    try:
                        seen = looker.look(response.record, name, response.outcome, foreign, wanted)
                    except ValueError as error:
                        unscored += 1
                        _say(f"{response.record.place} is skipped: {error}")
                        continue
                    kept.add(seen)
                    new += 1
                # of equal responses the first alone is compared
                found.append(replace(seen, group=name, outcome=response.outcome, compared=seen.compared if compares else []))
                compares = compares and not seen.compared
    return found, len(responses) - len(found) - unscored, unscored


def _engine(model: str, path: str, server: str | None, settings: Settings) -> Engine:
    if server is not None:
        return server_of(server, model, path, BATCH, settings.marks)
    return VllmEngine(path, max_model_len=None, seed=settings.seed, options={}, marks=settings.marks)


def _instruction(drawn: Asked, config: L2TConfig) -> str:
    if drawn.instructed:
        return "given"
    return "adaptive" if config.episodes.method == "episode_tags" else "none"


def _plain(name: str) -> str:
    """A name that can be part of a folder's.

    Example:
        >>> _plain("org/model"), _plain("data/train.parquet")
        ('org--model', 'data--train.parquet')
    """
    return name.strip("/").replace("/", "--").replace("=", "-")


def _json(advice: Verdict, found: Any, seen: Any) -> str:
    ways = [{"way": list(way), **asdict(estimate)} for way, estimate in seen.ways.items()]
    figures = {"outcomes": asdict(found), "sight": {**asdict(seen), "ways": ways}}
    named = {"advice": advice.advice.name.lower(), "headline": advice.headline}
    return json.dumps(without_nan({"verdict": named, **figures}), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _say(text: str) -> None:
    typer.echo(text, err=True)
