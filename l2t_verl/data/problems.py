"""A problem, and how one is read from the rows of a published data set, whose columns have many names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from l2t_verl.grading.answer import last_box
from l2t_verl.grading.truth import accepted_answers

QUESTION = ("problem", "question", "prompt", "Problem", "Question")
ANSWER = ("answer", "final_answer", "expected_answer", "Answer", "ground_truth", "reward_model", "solution", "Solution")
LEVEL = ("difficulty", "level", "year", "Year")
ID = ("unique_id", "id", "ID", "task_id", "idx")


@dataclass(frozen=True)
class Tests:
    """What a program has to pass.

    Attributes:
        source: of the tests.
        entry: the function that their own `check` is called with; empty if they call by name.
        preamble: code that stands before any program for this problem.
    """

    source: str
    entry: str = ""
    preamble: str = ""
    __test__: ClassVar[bool] = False  # pytest would take it for one of its own


@dataclass(frozen=True)
class Problem:
    """One problem with a checkable answer.

    Attributes:
        id: its name in its data set; its position there if it has none.
        question: the text that is asked.
        answer: the reference answer, as short as the data set has it; of a programming problem the reference program; empty
            if it has none.
        level: the data set's own measure of difficulty, or the year; empty if it has none.
        tests: of a programming problem.
        written: the answer as its file has it, where `answer` is not that.
    """

    id: str
    question: str
    answer: str
    level: str = ""
    tests: Tests | None = None
    written: str = field(default="", repr=False, compare=False)


class MissingColumn(ValueError):
    """A data set has no column of the names that are known for what it must hold."""


def problem_of(row: Mapping[str, Any], position: int) -> Problem:
    r"""Read a row of a data set; of several columns of one kind, the first counts.

    An answer is the last `\boxed{…}` of a solution, what follows `####`, or the column as it is. Of a list, its first entry
    is taken.

    Args:
        row: columns by name.
        position: of the row in its file, which names it if it has no name of its own.

    Raises:
        MissingColumn: there is no question or no answer among the columns.

    Example:
        >>> problem_of({"question": "1 + 2?", "answer": "1 + 2 = 3\n#### 3"}, 7)
        Problem(id='7', question='1 + 2?', answer='3', level='', tests=None)
        >>> problem_of({"problem": "x = 4?", "solution": "So \\boxed{\\frac{1}{2}}.", "year": 1983}, 0).answer
        '\\frac{1}{2}'
    """
    question = column(row, *QUESTION, what="question")
    answer = column(row, *ANSWER, what="answer")
    name = next(name for name in ANSWER if name in row)
    read = _answer(answer, is_solution=name.lower() == "solution")
    return Problem(
        id=str(next((row[key] for key in ID if row.get(key) is not None), position)),
        question=question_of(question),
        answer=read,
        level=str(next((row[key] for key in LEVEL if row.get(key) is not None), "")),
        written="" if str(answer).strip() == read else str(answer),
    )


def column(row: Mapping[str, Any], *names: str, what: str = "") -> Any:
    """Get the first of several columns that a row has.

    Args:
        row: columns by name.
        names: to look for, in this order.
        what: what the column holds, for the error message.

    Raises:
        MissingColumn: it has none of them.

    Example:
        >>> column({"Year": 1983}, "Year", "year")
        1983
    """
    for name in names:
        if name in row:
            return row[name]
    raise MissingColumn(f"no {what or names[0]}: none of the columns {', '.join(names)}; there are {', '.join(row)}")


def question_of(value: Any) -> str:
    r"""Get the text of a question; from a list of messages, what the user says.

    Raises:
        ValueError: a list without a message of a user, or with one that is no text.

    Example:
        >>> question_of([{"role": "system", "content": "Short!"}, {"role": "user", "content": "1 + 2?"}]), question_of(None)
        ('1 + 2?', '')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, (list, tuple)):
        return str(value).strip()
    asked = [_content(turn.get("content")) for turn in value if isinstance(turn, Mapping) and turn.get("role") == "user"]
    if not asked or None in asked:
        raise ValueError("the problem is a list without a message of a user, or with one that is no text")
    return "\n\n".join(filter(None, asked)).strip()


def _content(value: Any) -> str | None:
    """The text of a message, which may come in parts."""
    if isinstance(value, (list, tuple)):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in value]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if len(texts) == len(parts) else None
    return value if isinstance(value, str) else None


def _answer(value: Any, *, is_solution: bool) -> str:
    """The first of the accepted answers; of a written solution what its last box or its `####` holds."""
    if isinstance(value, Mapping):  # verl's column
        value = value.get("ground_truth")
    if is_solution and isinstance(value, str) and "####" not in value:
        value = last_box(value)
    found = accepted_answers(value)
    # integers that a spreadsheet has been at
    return re.sub(r"^(-?\d+)\.0$", r"\1", found[0]) if found else ""
