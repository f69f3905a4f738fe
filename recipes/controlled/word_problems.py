"""Word problems of two or three steps in plain English, and solutions that say more than they need to."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from recipes.controlled.words import NEEDLESS

NAMES = ("Tom", "Ana", "Ben", "Mia", "Sam", "Eva", "Max", "Lea", "Jon", "Ida", "Ali", "Zoe")
THINGS = ("apples", "marbles", "stickers", "cards", "coins", "shells", "beads", "stamps", "nuts", "pens")
HOLDERS = ("bags", "boxes", "jars", "packets", "baskets")
SAID_LAST = "#### "
# How each needless paragraph begins, by which it is known again in what a model writes
OPENINGS = {"restated": "So far", "rechecked": "Let me check:", "foreign": "By the way,"}
NEEDLESS_RATE = 0.4  # how often one follows a step


@dataclass(frozen=True)
class WordProblem:
    """A problem.

    Attributes:
        question: in words.
        steps: what has to be worked out, as an expression and its value, in order; the last value is the answer.
        thing: what is counted.
    """

    question: str
    steps: tuple[tuple[str, int], ...]
    thing: str

    @property
    def answer(self) -> str:
        return str(self.steps[-1][1])

    @property
    def split(self) -> str:
        """`train`, `validation` or `test`, by the question: no question is in two of them."""
        return {0: "test", 1: "validation"}.get(zlib.crc32(self.question.encode()) % 10, "train")


def draw(generator: random.Random) -> WordProblem:
    """A random problem of two or three steps.

    Example:
        >>> problem = draw(random.Random(1))
        >>> print(problem.question)
        Ben has 6 jars with 19 marbles each. Ben finds 53 more. Ben gives 14 to Ida. How many marbles does Ben have then?
        >>> problem.steps
        (('6 * 19', 114), ('114 + 53', 167), ('167 - 14', 153))
    """
    (name, friend), thing, holder = generator.sample(NAMES, 2), generator.choice(THINGS), generator.choice(HOLDERS)
    count, each = generator.randint(3, 19), generator.randint(4, 19)
    told = [f"{name} has {count} {holder} with {each} {thing} each."]
    steps = [(f"{count} * {each}", count * each)]
    for _ in range(generator.randint(1, 2)):
        had = steps[-1][1]
        if generator.random() < 0.5 or had < 10:
            more = generator.randint(5, 99)
            told.append(f"{name} finds {more} more.")
            steps.append((f"{had} + {more}", had + more))
        else:
            less = generator.randint(2, min(99, had - 1))
            told.append(f"{name} gives {less} to {friend}.")
            steps.append((f"{had} - {less}", had - less))
    told.append(f"How many {thing} does {name} have then?")
    return WordProblem(" ".join(told), tuple(steps), thing)


def problems(split: str, seed: int) -> Iterator[WordProblem]:
    """Problems of a split without end.

    Example:
        >>> {problem.split for problem, _ in zip(problems("test", 0), range(5))}
        {'test'}
    """
    generator = random.Random(f"language/{split}/{seed}")
    while True:
        if (problem := draw(generator)).split == split:
            yield problem


def solution(problem: WordProblem, generator: random.Random) -> str:
    """A right solution, a paragraph for each step, with needless ones between them.

    Example:
        >>> print(solution(draw(random.Random(1)), random.Random(2)))
        6 * 19 = 114 marbles.
        <BLANKLINE>
        114 + 53 = 167 marbles.
        <BLANKLINE>
        167 - 14 = 153 marbles.
        <BLANKLINE>
        So far there are 153 marbles.
        <BLANKLINE>
        #### 153
    """
    written = []
    for expression, value in problem.steps:
        written.append(f"{expression} = {value} {problem.thing}.")
        if generator.random() < NEEDLESS_RATE:
            kind = generator.choice(NEEDLESS)
            a, b = generator.randint(2, 19), generator.randint(2, 19)
            said = {
                "restated": f"there are {value} {problem.thing}.",
                "rechecked": f"{expression} = {value}.",
                "foreign": f"{a} + {b} = {a + b}.",
            }[kind]
            written.append(f"{OPENINGS[kind]} {said}")
    return "\n\n".join([*written, SAID_LAST + problem.answer])


def label(paragraph: str) -> str:
    """What a paragraph of a response is: `step`, or needless by its opening.

    Example:
        >>> [label(text) for text in ("3 * 4 = 12 pens.", "So far there are 12 pens.", "Let me check: 3 * 4 = 12.")]
        ['step', 'restated', 'rechecked']
    """
    return next((kind for kind, opening in OPENINGS.items() if paragraph.lstrip().startswith(opening)), "step")
