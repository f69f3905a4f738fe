"""Rows that cannot be won, or can be won by a wrong answer: what the graders say of a data set's truths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from l2t_verl.data.build import checked
from l2t_verl.data.problems import Problem


def report(problems: Sequence[Problem]) -> Iterator[str]:
    """A line for each row that is at fault, with the reason."""
    known = [problem for problem in problems if problem.answer]
    faults = {id(problem): fault for problem, fault in checked(known)}
    for position, problem in enumerate(problems):
        if not problem.answer:
            yield f"row {position} (id {problem.id}): cannot be won: it has no answer"
        elif fault := faults[id(problem)]:
            yield f"row {position} (id {problem.id}): {fault[0]}: {fault[1]}"
