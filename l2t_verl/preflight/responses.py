"""Responses in groups, one for each question: from a file of rollouts, or sampled for it."""

from __future__ import annotations

import json
import multiprocessing
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from l2t_verl.data import Problem, load
from l2t_verl.data.build import checked
from l2t_verl.data.datasets import ALL, named
from l2t_verl.data.instruction import check_instruction, instruction, opens_thinking, with_instruction
from l2t_verl.data.problems import problem_of
from l2t_verl.data.rows import OF_ANOTHER_FORM, DataError, check_rows, file_rows
from l2t_verl.evaluate.engines import Engine
from l2t_verl.evaluate.run import Settings, lacking, sample_all, tasks_of
from l2t_verl.evaluate.store import Store
from l2t_verl.grading import Grader
from l2t_verl.inspector.records import Record, Skipped
from l2t_verl.inspector.run import grade
from l2t_verl.inspector.scoring import Scorer

NAME = "preflight"  # of the questions, where samples are kept
UNGRADED = ("timeout", "error")


@dataclass(frozen=True)
class Response:
    """A response to a question.

    Attributes:
        record: with its problem and answers.
        group: of its question.
        outcome: more than 0 for a right one.
        tokens: of the response.
    """

    record: Record
    group: str
    outcome: float
    tokens: int


@dataclass(frozen=True)
class Asked:
    """Questions that were drawn.

    Attributes:
        problems: of each, with a name of its own.
        left_out: how many of those drawn are left out, since their own answer does not grade as right.
        instructed: whether the questions say themselves what is asked for, as verl's training data do.
    """

    problems: list[Problem]
    left_out: int
    instructed: bool


def groups_of(responses: Sequence[Response]) -> dict[str, list[tuple[float, int]]]:
    """Outcome and tokens of the responses to each question."""
    groups: dict[str, list[tuple[float, int]]] = {}
    for response in responses:
        groups.setdefault(response.group, []).append((response.outcome, response.tokens))
    return groups


def asked(data: str, count: int, seed: int) -> Asked:
    """Draw questions of a data set.

    Args:
        data: a name of `l2t_verl.data`'s, NAME=PATH, or a file of questions and answers, such as verl's training data.
        count: how many are drawn; more of them hold fewer, by the same seed.
        seed: of the draw.

    Raises:
        DataError: no such name or file, a column that is missing, programs in place of answers, several turns, nothing left.
    """
    known, instructed = _file(Path(data)) if Path(data).is_file() else (_data_set(data), False)
    known = [replace(problem, id=f"{number}:{problem.id}") for number, problem in enumerate(known)]
    random.Random(seed).shuffle(known)
    drawn = known[:count]
    kept = [problem for problem, fault in checked(drawn) if fault is None]
    if not kept:
        raise DataError(f"no question of {len(drawn)} drawn from {data} has an answer that is graded as right")
    return Asked(kept, len(drawn) - len(kept), instructed)


def _data_set(data: str) -> list[Problem]:
    name, _, path = data.partition("=")
    if named(name, ALL).task != "math":
        raise DataError(f"{name} asks for programs, which have no answer that J could be taken of")
    return load(name, Path(path) if path else None)


def _file(file: Path) -> tuple[list[Problem], bool]:
    """The questions of a file, and whether they are prompts of verl's."""
    rows = file_rows(file)
    try:
        check_rows(rows)
        prompts = [row["prompt"] for row in rows if isinstance(row.get("prompt"), list)]
        if any((row.get("extra_info") or {}).get("tests") for row in rows):
            raise DataError("it asks for programs, which have no answer that J could be taken of")
        if any(len(prompt) != 1 for prompt in prompts):
            raise DataError("its prompts have a system message or several turns: sample with verl, and name the --rollouts")
        return [problem_of(row, position) for position, row in enumerate(rows)], bool(prompts)
    except OF_ANOTHER_FORM as error:
        raise DataError(f"{file} cannot be read as questions: {error}; or name one of {', '.join(ALL)}") from error


def sampled(
    start: Callable[[], Engine], tokenizer: Any, problems: Sequence[Problem], settings: Settings, store: Store
) -> tuple[list[Response], list[str]]:
    """Sample what the store lacks; all responses in groups, and what is to be said of them.

    Args:
        start: starts an engine, if anything is lacking.
        tokenizer: the model's, whose chat template may open a thought.
        problems: the questions.
        settings: of the sampling.
        store: of the samples.

    Raises:
        EngineError: the engine fails.
        FileError: the disk is full.
    """
    if lacking(tasks_of({NAME: problems}, settings)[0], settings, store):
        engine, grader = start(), Grader(max(1, multiprocessing.cpu_count() // 2))
        try:
            sample_all(engine, {NAME: problems}, settings, store, grader)
        finally:
            grader.close()
            engine.close()
    words = instruction(
        check_instruction(settings.kind), opened=opens_thinking(tokenizer, settings.marks), marks=settings.marks
    )
    found, cut, ungraded = [], 0, 0
    for problem in problems:
        for index in range(settings.samples):
            sample = store.samples[NAME, problem.id, index, 0]
            cut += sample.finish == "length"
            if sample.grading in UNGRADED:
                ungraded += 1
                continue
            place = f"question {problem.id}, sample {index}"
            question = with_instruction(problem.question, words)
            record = Record(place, question, None, sample.response, (problem.answer,), sample.score)
            found.append(Response(record, problem.id, sample.score, sample.tokens))
    drawn = len(problems) * settings.samples
    notes = [f"{cut} of {drawn} responses were cut off at {settings.max_tokens} tokens (--max-tokens)"]
    return found, notes + [f"{ungraded} responses left out: grading ended without a verdict"] * bool(ungraded)


def recorded(
    items: Sequence[Record | Skipped], scorer: Scorer, report: Callable[[str], None]
) -> tuple[list[Response], list[Skipped]]:
    """Responses of a file; those without a recorded outcome are graded.

    Args:
        items: as they were read.
        scorer: whose tokens are counted.
        report: called at once with a line about each that is skipped.

    Returns:
        The responses, and what was left out.
    """
    found: list[Response] = []
    skipped: list[Skipped] = []
    grader = Grader(1)
    try:
        for item in tqdm(items, unit="rollout", desc="outcomes", disable=None):
            if isinstance(item, Record):
                try:
                    outcome, status = grade(item, grader, scorer)
                    if outcome is None:
                        raise ValueError(f"its answer cannot be graded ({status})")
                    group = json.dumps([item.problem, item.messages, item.answers])
                    found.append(Response(item, group, outcome, len(scorer.response(item))))
                    continue
                except ValueError as error:
                    item = Skipped(item.place, str(error))
            skipped.append(item)
            if item.is_fault:
                report(f"{item.place} is skipped: {item.reason}")
    finally:
        grader.close()
    return found, skipped
