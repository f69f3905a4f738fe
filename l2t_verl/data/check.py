"""Rows that cannot be won, or can be won by a wrong answer: what the graders say of a data set's truths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from l2t_verl.data.build import WON_BY_WRONG, checked
from l2t_verl.data.problems import Problem


def report(problems: Sequence[Problem]) -> Iterator[str]:
    """Find the rows that cannot be won, or that a wrong answer would win.

    Args:
        problems: in the order of their rows.

    Yields:
        A line for each such row, with the reason.
    """
    known = [problem for problem in problems if problem.answer]
    faults = {id(problem): fault for problem, fault in checked(known)}
    for position, problem in enumerate(problems):
        row = f"row {position} (id {problem.id})"
        if not problem.answer:
            yield f"{row} cannot be won: it has no answer"
        elif fault := faults[id(problem)]:
            how = "can be won by a wrong answer" if WON_BY_WRONG in fault[1] else "cannot be won"
            yield f"{row} {how}: {fault[1].removeprefix(f'{problem.id}: ')}"
