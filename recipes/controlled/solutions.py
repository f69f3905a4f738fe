"""Written solutions that reason as models do: necessary steps among repetitions, detours, mistakes and corrections."""

from __future__ import annotations

import random
from dataclasses import dataclass

from recipes.controlled.task import MODULUS, Definition, Problem, compute

THINK_CLOSE = "</think>"
ANSWER = "answer "
LIMIT = 150  # tokens of a response


@dataclass(frozen=True)
class Rates:
    """How often a solution does what it need not, each a probability at every place where it could.

    Attributes:
        restate: say again a value that was just computed.
        recheck: compute again a value that was just computed; again and again with the same probability.
        detour: compute a value that the question does not need, when it could be computed.
        mistake: write a wrong result.
        correction: notice a mistake in the next episode; else everything after it uses the wrong value.
        closing: say the answer again before the thought is closed.
    """

    restate: float = 0.25
    recheck: float = 0.35
    detour: float = 0.5
    mistake: float = 0.1
    correction: float = 0.6
    closing: float = 0.4


@dataclass(frozen=True)
class Episode:
    """A step's text without its tags, and what it is."""

    text: str
    label: str


def solve(problem: Problem, generator: random.Random, rates: Rates = Rates()) -> tuple[list[Episode], str]:
    """A solution's episodes and the answer that it arrives at."""
    truth, needed = problem.values, problem.needed
    believed = {d.name: d.digit for d in problem.definitions if not d.operator}
    episodes: list[Episode] = []

    def happens(rate: float) -> bool:
        return generator.random() < rate

    def write(definition: Definition, value: int, mark: str, label: str) -> None:
        operand = definition.operand
        episodes.append(Episode(f"{mark}{definition}={believed[operand]}{definition.name}={value}", label))

    for definition in problem.definitions:
        if not definition.operator:
            continue
        name = definition.name
        if name not in needed:
            # a detour may start from another detour's value, if that was computed
            if definition.operand in believed and happens(rates.detour):
                believed[name] = compute(definition, believed)
                write(definition, believed[name], "try ", "detour")
            continue
        right = compute(definition, believed)
        if happens(rates.mistake):
            wrong = generator.choice([value for value in range(MODULUS) if value != right])
            write(definition, wrong, "", "necessary" if wrong == truth[name] else "mistake")
            if happens(rates.correction):
                write(definition, right, "no ", "correction" if right == truth[name] else "mistake")
                believed[name] = right
            else:
                believed[name] = wrong
                continue
        else:
            write(definition, right, "", "necessary" if right == truth[name] else "mistake")
            believed[name] = right
        if believed[name] != truth[name]:
            continue
        while happens(rates.recheck):
            write(definition, believed[name], "check ", "recheck")
        if happens(rates.restate):
            episodes.append(Episode(f"know {name}={believed[name]}", "restate"))
    if happens(rates.closing):
        episodes.extend(Episode(f"know {name}={believed[name]}", "restate") for name in problem.query)
    return episodes, "".join(str(believed[name]) for name in problem.query)


def render(episodes: list[Episode], answer: str) -> str:
    """The response's text, the thought having been opened by the prompt."""
    tagged = (f"<episode_{k}>{episode.text}</episode_{k}>" for k, episode in enumerate(episodes, 1))
    return "".join(tagged) + THINK_CLOSE + ANSWER + answer


def written_answer(text: str, digits: int = 1) -> str | None:
    """The answer of a response; None if it does not give exactly so many digits after its thought."""
    _, closed, tail = text.partition(THINK_CLOSE)
    answer = tail.removeprefix(ANSWER)
    return answer if closed and tail.startswith(ANSWER) and len(answer) == digits and answer.isdigit() else None
