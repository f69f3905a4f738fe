"""Needless steps of known place: copies that are put into a response, to see whether gains tell them from its own."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

SHARE = 0.5  # of the episodes that one is put behind


@dataclass(frozen=True)
class Probe:
    """A response with needless steps in it.

    Attributes:
        ids: its tokens.
        ends: K ends of its episodes, in tokens.
        labels: of each episode: `own`, `again` (one of its own, copied) or `foreign` (of another response).
    """

    ids: list[int]
    ends: list[int]
    labels: list[str]


def with_needless(ids: Sequence[int], ends: Sequence[int], foreign: Sequence[Sequence[int]], draws: random.Random) -> Probe:
    """Put a needless step behind every second episode, on average: by turns a copy of one before it, and a foreign one.

    Args:
        ids: T tokens of the response.
        ends: ends b_1 < … < b_K of its episodes, in tokens.
        foreign: episodes of responses to other questions; if there is none, all are copies.
        draws: of the places.

    Example:
        >>> probe = with_needless([1, 2, 3, 4], [1, 3], [], random.Random(1))
        >>> probe.ids, probe.ends, probe.labels
        ([1, 1, 2, 3, 4], [1, 2, 4], ['own', 'again', 'own'])
    """
    episodes = [list(ids[start:end]) for start, end in itertools.pairwise([0, *ends])]
    made: list[tuple[str, list[int]]] = []
    kinds = itertools.cycle(("again", "foreign") if foreign else ("again",))
    for number, episode in enumerate(episodes):
        made.append(("own", episode))
        if draws.random() < SHARE:
            kind = next(kinds)
            made.append((kind, list(draws.choice(foreign) if kind == "foreign" else draws.choice(episodes[: number + 1]))))
    lengths = [len(piece) for _, piece in made]
    tail = list(ids[ends[-1] :]) if ends else list(ids)
    tokens = [token for _, piece in made for token in piece]
    return Probe(tokens + tail, list(itertools.accumulate(lengths)), [label for label, _ in made])
