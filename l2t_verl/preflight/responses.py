"""Responses in groups, one for each question: from a file of rollouts, or sampled for it."""

from __future__ import annotations

import json
import multiprocessing
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from l2t_verl.data import Problem, load
from l2t_verl.data.build import checked
from l2t_verl.data.datasets import ALL, named
from l2t_verl.data.instruction import check_instruction, instruction, opens_thinking, with_instruction
from l2t_verl.data.problems import problem_of
from l2t_verl.data.rows import OF_ANOTHER_FORM, DataError, check_rows, file_rows
from l2t_verl.evaluate.engines import Engine
from l2t_verl.evaluate.run import Settings, sample_all
from l2t_verl.evaluate.store import Store
from l2t_verl.grading import Grader
from l2t_verl.inspector.records import Record, Skipped
from l2t_verl.inspector.run import grade
from l2t_verl.inspector.scoring import Scorer

NAME = "preflight"  # of the questions, where samples are kept


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


def groups_of(responses: Sequence[Response]) -> dict[str, list[tuple[float, int]]]:
    """Outcome and tokens of the responses to each question."""
    groups: dict[str, list[tuple[float, int]]] = {}
    for response in responses:
        groups.setdefault(response.group, []).append((response.outcome, response.tokens))
    return groups


def problems(data: str, count: int, seed: int) -> tuple[list[Problem], int]:
    """Draw questions of a data set; beside them, how many of those drawn are left out: their own answer grades as wrong.

    Args:
        data: a name of `l2t_verl.data`'s, NAME=PATH, or a file of questions and answers, such as verl's training data.
        count: how many are drawn.
        seed: of the draw.

    Raises:
        DataError: no such name or file, a column that is missing, programs in place of answers, nothing left.
    """
    name, _, path = data.partition("=")
    if path or not Path(data).exists():
        if named(name, ALL).task != "math":
            raise DataError(f"{name} asks for programs, which have no answer that J could be taken of")
        known = load(name, Path(path) if path else None)
    else:
        rows = file_rows(Path(data))
        try:
            check_rows(rows)
            known = [problem_of(row, position) for position, row in enumerate(rows)]
        except OF_ANOTHER_FORM as error:
            raise DataError(f"{data} cannot be read as questions: {error}; or name one of {', '.join(ALL)}") from error
    drawn = random.Random(seed).sample(known, min(count, len(known)))
    kept = [problem for problem, fault in checked(drawn) if fault is None]
    if not kept:
        raise DataError(f"no question of {len(drawn)} drawn from {data} has an answer that is graded as right")
    named_apart = {problem.id for problem in kept}
    if len(named_apart) < len(kept):  # as verl's own rows, which have no id of their own
        kept = [replace(problem, id=f"{number}:{problem.id}") for number, problem in enumerate(kept)]
    return kept, len(drawn) - len(kept)


def sampled(
    engine: Engine, asked: Sequence[Problem], settings: Settings, store: Store, seconds: float = 10.0
) -> list[Response]:
    """Sample what the store lacks; all responses, in groups.

    Raises:
        EngineError: the engine fails.
        FileError: the disk is full.
    """
    grader = Grader(max(1, multiprocessing.cpu_count() // 2), seconds)
    try:
        sample_all(engine, {NAME: asked}, settings, store, grader)
    finally:
        grader.close()
    opened = engine.tokenizer is not None and opens_thinking(engine.tokenizer, settings.marks)
    words = instruction(check_instruction(settings.kind), opened=opened, marks=settings.marks)
    found = []
    for problem in asked:
        for index in range(settings.samples):
            sample = store.samples[NAME, problem.id, index, 0]
            place = f"question {problem.id}, sample {index}"
            question = with_instruction(problem.question, words)
            record = Record(place, question, None, sample.response, (problem.answer,), sample.score)
            found.append(Response(record, problem.id, sample.score, sample.tokens))
    return found


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
