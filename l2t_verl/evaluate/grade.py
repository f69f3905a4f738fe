"""Grades of many responses at once, each in a process with a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

from l2t_verl.data import Problem
from l2t_verl.grading import Grader, GradeResult, Unparsable, grade_code_score, grade_math_score
from l2t_verl.grading.answer import final_answer
from l2t_verl.grading.reading import read
from l2t_verl.thought import MARKS, Marks

LONGEST = 200  # characters of an answer that votes by its value, not as it is written


def grades(
    grader: Grader,
    responses: Sequence[str],
    problems: Sequence[Problem],
    opened: Sequence[bool | None],
    marks: Marks = MARKS,
) -> list[GradeResult]:
    """Grade each response to its problem: by the problem's tests if it has any, else by math-verify.

    Args:
        grader: runs the grading functions.
        responses: with the marks of their thoughts.
        problems: one for each.
        opened: whether the prompt of each has opened a thought.
        marks: of the thought.
    """

    async def one(response: str, problem: Problem, thinking: bool | None) -> GradeResult:
        if problem.tests is not None:
            return await grader.grade(grade_code_score, response, asdict(problem.tests), marks, thinking)
        return await grader.grade(grade_math_score, response, problem.answer, marks, thinking)

    async def all_of_them() -> list[GradeResult]:
        return await asyncio.gather(*(one(*pair) for pair in zip(responses, problems, opened, strict=True)))

    return asyncio.run(all_of_them())


def vote(response: str, problem: Problem, opened: bool | None = None, marks: Marks = MARKS) -> str | None:
    r"""The text by which a response votes in maj@k: its final answer, as the graders find and spell it.

    Numbers vote by their values, everything else by its spelling: answers that are equal only by mathematics count as two.
    Programs do not vote, nor does what is only found in a sentence.

    Example:
        >>> problem = Problem("0", "?", "1000")
        >>> [vote(text, problem) for text in ("So \\boxed{ 1,000 }", "#### 1000.0", "\\boxed{\\dfrac 12}", "no idea")]
        ['1000', '1000', '1/2', None]
        >>> vote("<think>\\boxed{1}</think> \\boxed{x} and \\boxed{y}", problem), vote("<think>\\boxed{1}", problem)
        ('x,y', None)
    """
    if problem.tests is not None:
        return None
    try:
        answer = final_answer(response, marks, opened)
    except Unparsable:
        return None
    if not answer.is_whole:
        return None
    text = ", ".join(answer.texts)
    if len(text) > LONGEST:  # the rules of spelling have no limit on time here
        return text
    reading = read(text)
    try:
        said = reading.canonical if reading.number is None else str(reading.number.value)
    except ValueError:  # more digits than Python writes
        said = reading.canonical
    return f"{said}%" if reading.is_percentage else said or None
