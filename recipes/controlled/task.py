"""Problems with known truth: chains of arithmetic modulo 10 over named values, some of which the question does not need.

    a=3;b:4+a;c:2*b;d:1-a;?c

A problem's tier is the number of values that have to be computed: 2 (easy), 4 (middle), 6 (hard). Train, validation and test
share no problem: the text of a problem decides where it belongs.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

MODULUS = 10
LETTERS = "abcdefghijkl"
OPERATORS = "+-*"
TIERS = {"easy": 2, "middle": 4, "hard": 6}
DISTRACTORS = {"easy": 1, "middle": 1, "hard": 2}
SPLITS = {"train": range(80), "validation": range(80, 90), "test": range(90, 100)}  # of a hash's hundred values


@dataclass(frozen=True)
class Definition:
    """One value: a digit, or an operation on a digit and another value.

    Attributes:
        name: its letter.
        digit: the digit.
        operator: one of `OPERATORS`; empty where the digit is the value.
        operand: the other value's letter; empty likewise.
    """

    name: str
    digit: int
    operator: str = ""
    operand: str = ""

    def __str__(self) -> str:
        return f"{self.name}{':' if self.operator else '='}{self.digit}{self.operator}{self.operand}"


@dataclass(frozen=True)
class Problem:
    """Definitions in an order in which they can be computed, and the values asked for, one letter each."""

    definitions: tuple[Definition, ...]
    query: str
    tier: str

    def __str__(self) -> str:
        return ";".join(map(str, self.definitions)) + f";?{self.query}"

    @property
    def values(self) -> dict[str, int]:
        """The true value of every name."""
        found: dict[str, int] = {}
        for definition in self.definitions:
            found[definition.name] = compute(definition, found)
        return found

    @property
    def answer(self) -> str:
        """The true values of what is asked for."""
        values = self.values
        return "".join(str(values[name]) for name in self.query)

    @property
    def needed(self) -> frozenset[str]:
        """The names that have to be computed to know the answer."""
        by_name = {definition.name: definition for definition in self.definitions}
        found = set()
        for name in self.query:
            while by_name[name].operator:
                found.add(name)
                name = by_name[name].operand
        return frozenset(found)


def compute(definition: Definition, values: dict[str, int]) -> int:
    """The value of a definition, given its operand's."""
    if not definition.operator:
        return definition.digit
    left, right = definition.digit, values[definition.operand]
    return {"+": left + right, "-": left - right, "*": left * right}[definition.operator] % MODULUS


def parse(text: str, tier: str = "") -> Problem:
    """The problem that `str` wrote."""
    *definitions, query = text.split(";")
    made = []
    for definition in definitions:
        name, _, digit, *rest = list(definition)
        made.append(Definition(name, int(digit), *rest))
    return Problem(tuple(made), query.removeprefix("?"), tier)


def draw(generator: random.Random, tier: str) -> Problem:
    """A random problem of a tier."""
    names = shuffled_names(generator)
    definitions = [given(generator, next(names))]
    definitions += chain(generator, names, definitions[0].name, TIERS[tier])
    last = definitions[-1].name
    for _ in range(DISTRACTORS[tier]):
        position = generator.randrange(1, len(definitions) + 1)
        operand = generator.choice(definitions[:position]).name
        definitions.insert(position, computed(generator, next(names), operand))
    return Problem(tuple(definitions), last, tier)


def shuffled_names(generator: random.Random) -> Iterator[str]:
    """All letters in a random order."""
    return iter(generator.sample(LETTERS, len(LETTERS)))


def given(generator: random.Random, name: str) -> Definition:
    """A random digit."""
    return Definition(name, generator.randrange(MODULUS))


def computed(generator: random.Random, name: str, operand: str) -> Definition:
    """A random operation on a random digit and another value."""
    return Definition(name, generator.randrange(MODULUS), generator.choice(OPERATORS), operand)


def chain(generator: random.Random, names: Iterator[str], operand: str, count: int) -> list[Definition]:
    """Values that each use the one before, the first of them `operand`, so that the last needs all of them."""
    found: list[Definition] = []
    for _ in range(count):
        found.append(computed(generator, next(names), operand))
        operand = found[-1].name
    return found


def split_of(problem: Problem) -> str:
    """The split that a problem belongs to, whoever draws it."""
    value = int.from_bytes(hashlib.sha256(str(problem).encode()).digest()[:8]) % 100
    return next(name for name, values in SPLITS.items() if value in values)


def problems(split: str, seed: int, tiers: tuple[str, ...] = tuple(TIERS)) -> Iterator[Problem]:
    """Problems of a split without end, the tiers in turn."""
    return drawn(split, random.Random(f"{split}/{seed}"), tiers, draw)


def drawn(
    split: str, generator: random.Random, tiers: Iterable[str], draw: Callable[[random.Random, str], Problem]
) -> Iterator[Problem]:
    """Problems of a split without end, the tiers in turn, from whatever draws one of a tier."""
    for tier in itertools.cycle(tiers):
        problem = draw(generator, tier)
        while split_of(problem) != split:
            problem = draw(generator, tier)
        yield problem
