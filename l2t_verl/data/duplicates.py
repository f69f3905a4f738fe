"""Problems that are nearly the same text."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

WORDS = 3  # of a shingle
NO_SPACES = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # Thai and Lao, kana, ideographs, Hangul
THRESHOLD = 0.7  # of the Jaccard index from which two texts are one problem


def normalised(text: str) -> list[str]:
    """Split a text into words, numbers and operators, without what copies of it may differ in.

    That is case, spaces, brackets and dollar signs. In scripts without spaces between words, each character is a word.

    Example:
        >>> normalised(r"Let $x^2 - 1=10$ !"), normalised("Сколько? 求和 π")
        (['let', 'x', '2', '-', '1', '=', '10'], ['сколько', '求', '和', 'π'])
    """
    text = re.sub(r"\\(?:left|right|[dt]?frac|text|mathrm|[,;!])", lambda m: "frac" if "frac" in m[0] else " ", text)
    return re.findall(rf"[{NO_SPACES}]|(?:(?![{NO_SPACES}])[^\W\d_])+|\d+|[-+=<>/*]", text.lower())


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """All runs of `WORDS` words in a text; a shorter text is a single run.

    Example:
        >>> sorted(shingles("2 + 2 = 4"))
        [('+', '2', '='), ('2', '+', '2'), ('2', '=', '4')]
    """
    words = normalised(text)
    return frozenset(tuple(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1)))


class NearDuplicates:
    """A collection of texts, which finds the one that is most like another text.

    J(a, b) = |a ∩ b| / |a ∪ b| over shingles, for all pairs exactly, by an inverted index.

    Example:
        >>> known = NearDuplicates(["What is the sum of all primes below ten?", "How many apples are there in the bag?"])
        >>> known.nearest("What is the sum of all primes below ten, please?")
        (0, 0.875)
    """

    def __init__(self, texts: Sequence[str]):
        self._sizes: list[int] = []
        self._index: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for position, text in enumerate(texts):
            own = shingles(text)
            self._sizes.append(len(own))
            for shingle in own:
                self._index[shingle].append(position)

    def nearest(self, text: str) -> tuple[int, float] | None:
        """Find the most similar text: its position and the Jaccard index; None if no text shares a run of words."""
        own = shingles(text)
        shared = Counter(position for shingle in own for position in self._index.get(shingle, ()))
        if not shared:
            return None
        values = {position: n / (len(own) + self._sizes[position] - n) for position, n in shared.items()}
        best = max(values, key=lambda position: (values[position], -position))
        return best, values[best]
