"""The run: which samples are missing, batch by batch, sampled, graded and stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tqdm import tqdm

from l2t_verl.data import Problem
from l2t_verl.data.instruction import check_instruction, instruction, opens_thinking, with_instruction
from l2t_verl.evaluate.budgets import ANSWER_TOKENS, cut
from l2t_verl.evaluate.engines import Engine, Generated, Request
from l2t_verl.evaluate.grade import grades, vote
from l2t_verl.evaluate.parallel import EngineProcesses, generate_each
from l2t_verl.evaluate.store import Sample, Store
from l2t_verl.gain import ForcingTemplate
from l2t_verl.grading import Grader, GradeResult
from l2t_verl.thought import MARKS, Marks


@dataclass(frozen=True)
class Settings:
    """How samples are drawn.

    Attributes:
        samples: n of each question.
        temperature: of the sampling.
        top_p: of the sampling.
        max_tokens: of a response.
        seed: of the whole run; each sample has its own from it.
        kind: of the episode instruction, as for training data.
        budgets: tokens of thought at which answers are forced.
        batch: requests that are sampled together, whatever was sampled before: so a resumed run is the same run.
        think_open: mark that opens a thought.
        think_close: mark that closes it.
    """

    samples: int = 20
    temperature: float = 0.6
    top_p: float = 0.95
    max_tokens: int = 16384
    seed: int = 0
    kind: str = "adaptive"
    budgets: tuple[int, ...] = ()
    batch: int = 512
    think_open: str = MARKS.opening
    think_close: str = MARKS.closing

    @property
    def marks(self) -> Marks:
        """Of the thought."""
        return Marks.of(self.think_open, self.think_close)


@dataclass(frozen=True)
class Task:
    """A sample that is wanted."""

    benchmark: str
    problem: Problem
    index: int
    budget: int = 0

    @property
    def key(self) -> tuple[str, str, int, int]:
        """As in `Sample`."""
        return self.benchmark, self.problem.id, self.index, self.budget


def seed_of(seed: int, task: Task) -> int:
    """The seed of one sample: the same whenever it is drawn, and whatever else is drawn.

    Example:
        >>> seed_of(0, Task("b", Problem("1", "?", "2"), 0)) == seed_of(0, Task("b", Problem("1", "?", "2"), 0))
        True
    """
    digest = hashlib.sha256(repr((seed, task.key)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def tasks_of(benchmarks: Mapping[str, Sequence[Problem]], settings: Settings) -> tuple[list[Task], list[Task]]:
    """List every sample that is wanted: whole responses, and the forced answers that continue them."""
    whole = [
        Task(name, problem, index)
        for name, problems in benchmarks.items()
        for problem in problems
        for index in range(settings.samples)
    ]
    forced = [
        Task(task.benchmark, task.problem, task.index, budget)
        for budget in settings.budgets
        for task in whole
        if task.problem.tests is None
    ]
    return whole, forced


def batches_of(tasks: Sequence[Task], settings: Settings) -> list[Sequence[Task]]:
    """Divide tasks into batches, always in the same way, whichever samples exist already."""
    return [tasks[start : start + settings.batch] for start in range(0, len(tasks), settings.batch)]


def lacking(tasks: Sequence[Task], settings: Settings, store: Store) -> list[Sequence[Task]]:
    """The batches of which the store lacks a sample."""
    return [batch for batch in batches_of(tasks, settings) if any(task.key not in store.samples for task in batch)]


def sample_all(
    engine: Engine | EngineProcesses,
    benchmarks: Mapping[str, Sequence[Problem]],
    settings: Settings,
    store: Store,
    grader: Grader,
) -> None:
    """Sample what the store lacks: whole responses first, then the forced answers, which go on from them.

    Engines side by side finish their batches in any order; in the end the file has the order of one engine's.

    Raises:
        EngineError: the engine fails.
        FileError: the disk is full.
    """
    whole, forced = tasks_of(benchmarks, settings)
    maker = Maker(engine, settings, store, grader)
    maker.make(whole, "responses")
    if forced:
        maker.make(forced, "forced answers")
    batches = batches_of(whole, settings) + batches_of(forced, settings)
    store.arrange({task.key: number for number, batch in enumerate(batches) for task in batch})


class Maker:
    """Makes samples of tasks."""

    def __init__(self, engine: Engine | EngineProcesses, settings: Settings, store: Store, grader: Grader):
        self.engine, self.settings, self.store, self.grader = engine, settings, store, grader
        tokenizer = engine.tokenizer
        self.marks = settings.marks
        self.opened = tokenizer is not None and opens_thinking(tokenizer, self.marks)
        self.template = ForcingTemplate(think_open=self.marks.opening, think_close=f"\n{self.marks.closing}")

    def make(self, tasks: Sequence[Task], what: str) -> None:
        """Sample, grade and store what is missing, in batches that are always the same."""
        under_way: dict[int, tuple[Sequence[Task], list[Request | None]]] = {}

        def requests() -> Iterator[list[Request]]:
            for number, batch in enumerate(lacking(tasks, self.settings, self.store)):
                asked = [self._request(task) for task in batch]
                under_way[number] = batch, asked
                yield [request for request in asked if request is not None]

        done = sum(task.key in self.store.samples for task in tasks)
        with tqdm(total=len(tasks), initial=done, desc=what, unit="sample", smoothing=0.1) as bar:
            for number, generated in generate_each(self.engine, requests()):
                batch, asked = under_way.pop(number)
                missing = sum(task.key not in self.store.samples for task in batch)
                self.store.add(self._samples(batch, asked, generated))
                bar.update(missing)

    def _samples(
        self, batch: Sequence[Task], asked: Sequence[Request | None], generated: Sequence[Generated]
    ) -> list[Sample]:
        new = [(task, request) for task, request in zip(batch, asked, strict=True) if request is not None]
        # a response that was over within its budget keeps its own grade
        kept = [self._over(task) for task, request in zip(batch, asked, strict=True) if request is None]
        texts = [self._graded_text(request, found) for (_, request), found in zip(new, generated, strict=True)]
        opened = [self._thinking(request) for _, request in new]
        results = grades(self.grader, texts, [task.problem for task, _ in new], opened, self.marks)
        return kept + [
            self._sample(task, request, found, text, result)
            for (task, request), found, text, result in zip(new, generated, texts, results, strict=True)
        ]

    def _request(self, task: Task) -> Request | None:
        """What the engine is asked; None where nothing has to be asked."""
        settings, thought, kept = self.settings, "", 0
        limits = settings.max_tokens, settings.temperature
        if task.budget:
            whole = self._whole(task)
            ended = whole.finish != "length"
            found = cut(self.engine.tokenizer, whole.response, task.budget, self.template, self.opened, ended)
            if found is None:
                return None
            thought, kept, limits = found.text, found.kept, (ANSWER_TOKENS, 0.0)
        kind: Literal["math", "code"] = "math" if task.problem.tests is None else "code"
        instructed = check_instruction(settings.kind)
        words = instruction(instructed, opened=self.opened, task=kind, marks=self.marks)
        question, seed = with_instruction(task.problem.question, words), seed_of(settings.seed, task)
        return Request(question, thought, seed, *limits, settings.top_p, kept)

    def _whole(self, task: Task) -> Sample:
        return self.store.samples[(task.benchmark, task.problem.id, task.index, 0)]

    def _over(self, task: Task) -> Sample:
        whole = self._whole(task)
        return Sample(
            *task.key, "", whole.finish, whole.tokens, whole.thinking_tokens, whole.score, whole.grading, whole.answer
        )

    def _graded_text(self, request: Request, found: Generated) -> str:
        if not request.thought:
            return found.text
        return self.template.cut(self.template.suffix + found.text, len(self.template.suffix))

    def _sample(self, task: Task, request: Request, found: Generated, text: str, result: GradeResult) -> Sample:
        forced = bool(request.thought)
        thinking = min(request.kept, self._whole(task).thinking_tokens) if forced else self._thinking_tokens(found)
        return Sample(
            *task.key,
            found.text,
            found.finish,
            found.tokens + request.kept,
            thinking,
            result.accuracy,
            result.status,
            vote(text, task.problem, self._thinking(request), self.marks),
        )

    def _thinking(self, request: Request) -> bool | None:
        """True where the prompt has opened the thought that the response goes on with; else its own marks decide."""
        return True if self.opened and not request.thought else None

    def _thinking_tokens(self, found: Generated) -> int:
        """Tokens to the mark that closes the thought; all, if it is not closed; a share by letters without a tokenizer."""
        begun = self.marks.opening in found.text or self.opened
        thought, mark, _ = found.text.partition(self.marks.closing)
        if not mark:
            return found.tokens if begun else 0
        if self.engine.tokenizer is None:
            return round(found.tokens * len(thought + mark) / max(1, len(found.text)))
        return min(found.tokens, len(self.engine.tokenizer.encode(thought + mark, add_special_tokens=False)))


def by_question(samples: Mapping[Any, Sample], benchmark: str, budget: int = 0) -> Iterator[tuple[str, list[Sample]]]:
    """The samples of each question of a benchmark, in the order of their indices."""
    found: dict[str, list[Sample]] = {}
    for sample in samples.values():
        if sample.benchmark == benchmark and sample.budget == budget:
            found.setdefault(sample.question, []).append(sample)
    for question in sorted(found):
        yield question, sorted(found[question], key=lambda sample: sample.index)
