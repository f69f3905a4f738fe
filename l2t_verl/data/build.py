"""From problems to verl's rows: what is dropped and why, and what is written."""

from __future__ import annotations

import logging
import multiprocessing
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from l2t_verl.data import duplicates
from l2t_verl.data.duplicates import THRESHOLD, NearDuplicates
from l2t_verl.data.instruction import with_instruction
from l2t_verl.data.problems import Problem
from l2t_verl.grading.code import grade_code_score
from l2t_verl.grading.mathematics import grade_math
from l2t_verl.grading.pool import QuietContext, Unparsable
from l2t_verl.grading.reading import number
from l2t_verl.grading.rules import normalised

SECONDS = 10.0  # for checking one answer
WORTH_A_PROCESS = 32  # problems: one that is still starting when all answers are checked fails, and prints how
UNGRADED = "answer that cannot be graded"
WON_BY_WRONG = "is graded as right too"


@dataclass
class Built:
    """What became of a data set's problems.

    Attributes:
        kept: the problems that are trained on.
        dropped: how many were dropped, by reason.
        examples: of each reason the first that was dropped, as text.
    """

    kept: list[Problem]
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def drop(self, reason: str, example: str) -> None:
        """Count a problem that is not kept."""
        self.dropped[reason] += 1
        self.examples.setdefault(reason, example)


def build(
    problems: Sequence[Problem],
    benchmarks: Mapping[str, Sequence[Problem]],
    *,
    sample: int | None = None,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> Built:
    """Choose the problems of a training set: those that can be graded, once each, and that are in no benchmark.

    Args:
        problems: of the data set, in its order.
        benchmarks: evaluation problems by name; a problem nearly the same as one of them is dropped.
        sample: how many to draw; None keeps all, in their order.
        seed: of the draw.
        report: called with a line about each stage.

    Returns:
        The problems that were kept, and for each reason how many were dropped.
    """
    built = Built([])
    candidates = _once(problems, built)
    if sample is not None:
        random.Random(seed).shuffle(candidates)
    known = {name: NearDuplicates([problem.question for problem in of]) for name, of in benchmarks.items()}
    size = len(candidates) if sample is None else sample
    report(
        f"checking answers of {size} of {len(candidates)} problems, and {sum(map(len, benchmarks.values()))} of benchmarks"
    )
    # a sample is checked as far as it is drawn: checking all of a large set would take hours
    for start in range(0, len(candidates), max(size, 1)):
        for problem, fault in checked(candidates[start : start + size]):
            found = fault or _twin(problem, known, benchmarks)
            if found:
                built.drop(*found)
            elif len(built.kept) < size:
                built.kept.append(problem)
        if len(built.kept) >= size or sample is None:
            break
    return built


def _once(problems: Sequence[Problem], built: Built) -> list[Problem]:
    seen: set[tuple[str, ...]] = set()
    found = []
    for problem in problems:
        key = tuple(duplicates.normalised(problem.question)) or (problem.question,)
        if not problem.question:
            built.drop("no question", f"{problem.id}")
        elif not _whole(problem):
            built.drop("half a character (a lone surrogate)", f"{problem.id}")
        elif not problem.answer:
            built.drop("no answer", f"{problem.id}: {problem.question[:100]}")
        elif key in seen:
            built.drop("seen before", f"{problem.id}: {problem.question[:100]}")
        else:
            seen.add(key)
            found.append(problem)
    return found


def _whole(problem: Problem) -> bool:
    """Whether its texts can be written and tokenised."""
    try:
        f"{problem.question}{problem.answer}".encode()
    except UnicodeEncodeError:
        return False
    return True


def checked(problems: Sequence[Problem]) -> list[tuple[Problem, tuple[str, str] | None]]:
    """Check the answers of problems in processes of their own: each has to grade itself, and no wrong one has to win.

    Returns:
        Each problem, and None if its answer can be graded, else the reason and an example.
    """
    from pebble import ProcessPool

    found = []
    processes = min(multiprocessing.cpu_count(), 1 + len(problems) // WORTH_A_PROCESS)
    context = QuietContext()  # which has to outlive the pool
    with ProcessPool(processes, context=context, initializer=_quiet) as pool:
        own = pool.map(self_check, problems, timeout=SECONDS, chunksize=1).result()
        others = pool.map(won_by_wrong, problems, timeout=SECONDS, chunksize=1).result()
        for problem in problems:
            faults = _result(own), _result(others, is_fault=False)
            reason = faults[0] or faults[1]
            example = f"{problem.id}: {problem.answer[:100]!r} ({reason})"
            found.append((problem, None if reason is None else (UNGRADED, example)))
    return found


def _result(results: Iterator[str | None], is_fault: bool = True) -> str | None:
    """The next reason; where the check itself fails or takes too long, how, if that is the answer's fault."""
    try:
        return next(results)
    except Exception as error:  # unreadable, too slow, or whatever math-verify raises
        if not is_fault:
            return None
        return f"{type(error).__name__}: {error}"[:100] if isinstance(error, Unparsable) else type(error).__name__


def _quiet() -> None:
    logging.disable(logging.WARNING)  # math-verify's, that the limit on time is ours


def self_check(problem: Problem) -> str | None:
    """Check the grading of a reference answer: in a box it has to be right.

    Returns:
        What is wrong; None if nothing is.
    """
    if not _whole(problem):
        return "half a character, a lone surrogate, in its texts"
    if problem.tests is not None:
        passed = grade_code_score(f"```python\n{problem.answer}\n```", asdict(problem.tests)) == 1.0
        return None if passed else "graded as wrong"
    return None if grade_math(f"\\boxed{{{problem.answer}}}", problem.answer) else "graded as wrong"


def won_by_wrong(problem: Problem) -> str | None:
    """Check that a reference answer with one digit changed is wrong; one whose grading does not end has not won.

    Returns:
        What is wrong; None if nothing is.
    """
    others = [] if problem.tests is not None else changed(problem.answer)
    if others and all(_wins(other, problem.answer) for other in others):
        return f"{' and '.join(map(repr, others))} {WON_BY_WRONG}"
    return None


def _wins(response: str, truth: str) -> bool:
    try:
        return grade_math(f"\\boxed{{{response}}}", truth)
    except Unparsable:
        return False


def changed(answer: str) -> list[str]:
    r"""Change the last digit of an answer in two ways, since one of them may have the same value: C(5, 2) is C(5, 3).

    In a number with a unit, the number is changed, because units are not compared.

    Returns:
        Two wrong answers; none if the answer holds no digit.

    Example:
        >>> changed("\\frac{1}{29}"), changed("15\\mbox{ cm}^2"), changed("\\binom{5}{2}"), changed("x")
        (['\\frac{1}{28}', '\\frac{1}{27}'], ['14', '13'], ['\\binom{5}{1}', '\\binom{5}{3}'], [])
    """
    value = normalised(answer)
    text = value if number(value) is not None else answer
    places = [match.start() for match in re.finditer(r"\d", text)]
    if not places:
        return []
    last, digit = places[-1], int(text[places[-1]])
    digits = (digit - 1, digit - 2) if digit > 2 else (1, 3) if digit == 2 else (digit + 1, digit + 2)
    return [f"{text[:last]}{other}{text[last + 1 :]}" for other in digits]


def _twin(
    problem: Problem, known: Mapping[str, NearDuplicates], benchmarks: Mapping[str, Sequence[Problem]]
) -> tuple[str, str] | None:
    for name, texts in known.items():
        nearest = texts.nearest(problem.question)
        if nearest is not None and nearest[1] >= THRESHOLD:
            other = benchmarks[name][nearest[0]]
            return f"in {name}", f"{problem.question[:100]!r} is {other.question[:100]!r} (Jaccard {nearest[1]:.2f})"
    return None


def as_row(problem: Problem, name: str, split: str, index: int, instruction: str) -> dict[str, Any]:
    """Make the row of a problem, as verl reads it.

    Its `data_source` is not one of verl's own, so that the reward manager `l2t` grades it: by its tests if it has any, else
    by math-verify.

    Args:
        problem: to be written.
        name: of the data set.
        split: `train` or `validation`.
        index: of the row in its file.
        instruction: text that follows the question.

    Returns:
        The row's columns.
    """
    extra = {"index": index, "split": split, "id": problem.id, "level": problem.level}
    if problem.tests is not None:
        extra["tests"] = asdict(problem.tests)
    return {
        "data_source": f"l2t/{name}",
        "prompt": [{"role": "user", "content": with_instruction(problem.question, instruction)}],
        "ability": "math" if problem.tests is None else "code",
        "reward_model": {"style": "rule", "ground_truth": problem.answer},
        "extra_info": extra,
    }
