"""Grades of many responses at once, each in a process with a time limit."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction

from l2t_verl.data import Problem
from l2t_verl.grading import Grader, GradeResult, grade_code_score, grade_math_score
from l2t_verl.grading.answer import last_box
from l2t_verl.thought import MARKS, Marks, answer_part


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
    r"""The text by which a response votes in maj@k: that of its last box, or what follows its last `####`.

    Differences in spaces, dollar signs and the writing of fractions and numbers are removed. Answers that are equal only
    by mathematics count as two. Programs do not vote.

    Example:
        >>> problem = Problem("0", "?", "1000")
        >>> [vote(text, problem) for text in ("So \\boxed{ 1,000 }", "#### 1000.0", "\\boxed{\\dfrac 12}", "no idea")]
        ['1000', '1000', '\\frac12', None]
    """
    if problem.tests is not None:
        return None
    response = answer_part(response, marks, opened) or ""
    text = last_box(response)
    if text is None:
        mark = response.rpartition("####")
        text = mark[2].strip().partition("\n")[0] if mark[1] else None
    if not text:
        return None
    text = re.sub(r"\s|\$|\\[,;!]|\\left|\\right", "", text).replace("dfrac", "frac").replace("tfrac", "frac")
    number = text.replace(",", "")
    try:
        return str(Fraction(number))
    except (ValueError, ZeroDivisionError):
        return text
