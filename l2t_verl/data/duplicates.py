"""Problems that are nearly the same text."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

WORDS = 3  # of a shingle
NO_SPACES = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # Thai and Lao, kana, ideographs, Hangul
THRESHOLD = 0.7  # of the Jaccard index from which two texts are one problem


def normalised(text: str) -> list[str]:
    """Words, numbers and operators; what copies of a text differ by (case, spaces, brackets, dollar signs) is dropped.

    Of scripts that put no space between words each character is one.

    Example:
        >>> normalised(r"Let $x^2 - 1=10$ !"), normalised("Сколько? 求和 π")
        (['let', 'x', '2', '-', '1', '=', '10'], ['сколько', '求', '和', 'π'])
    """
    text = re.sub(r"\\(?:left|right|[dt]?frac|text|mathrm|[,;!])", lambda m: "frac" if "frac" in m[0] else " ", text)
    return re.findall(rf"[{NO_SPACES}]|(?:(?![{NO_SPACES}])[^\W\d_])+|\d+|[-+=<>/*]", text.lower())


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """All runs of `WORDS` words; a shorter text is one by itself."""
    words = normalised(text)
    return frozenset(tuple(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1)))


class NearDuplicates:
    """The texts of a collection, to be asked which of them is nearly another one.

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
        """The most similar text's position and its Jaccard index; None if nothing is shared."""
        own = shingles(text)
        shared = Counter(position for shingle in own for position in self._index.get(shingle, ()))
        if not shared:
            return None
        values = {position: n / (len(own) + self._sizes[position] - n) for position, n in shared.items()}
        best = max(values, key=lambda position: (values[position], -position))
        return best, values[best]
