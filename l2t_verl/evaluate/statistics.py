"""Estimates over samples of several questions, with intervals over the questions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000


def bootstrap(
    values: np.ndarray, *, seed: int = 0, ratio_to: np.ndarray | None = None, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % percentile interval of a mean over questions, or of the ratio of two means, by resampling questions.

    Args:
        values: [Q], one for each question.
        seed: of the resampling.
        ratio_to: [Q], the denominator's values of the same questions.
        resamples: how often the questions are drawn again.

    Returns:
        The lower and the upper end; nan for a single question, of which nothing can be said.

    Example:
        >>> low, high = bootstrap(np.array([0.0, 1.0] * 50))
        >>> 0.39 < low < 0.42, 0.58 < high < 0.61
        (True, True)
    """
    if len(values) < 2:
        return math.nan, math.nan
    chosen = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    means = values[chosen].mean(axis=1)
    if ratio_to is not None:
        means = means / ratio_to[chosen].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that at least one of k samples is right, without bias from n ≥ k of them (arXiv 2107.03374, eq. 1).

    1 − C(n − c, k) / C(n, k)

    Example:
        >>> pass_at_k(4, 1, 1), pass_at_k(4, 1, 2), pass_at_k(4, 3, 2)
        (0.25, 0.5, 1.0)
    """
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def majority(answers: Sequence[str | None], scores: Sequence[float], k: int) -> float:
    """maj@k: how often the most frequent answer of k samples is right, over consecutive groups of k.

    An answer that is not there votes for nothing; of answers that are as frequent, the first counts.

    Example:
        >>> majority(["7", "8", "7", None], [1, 0, 1, 0], 4), majority(["7", "8", "8", "7"], [1, 0, 0, 1], 2)
        (1.0, 0.5)
    """
    found = []
    for start in range(0, len(answers) - k + 1, k):
        votes = Counter(answer for answer in answers[start : start + k] if answer is not None)
        winner = votes.most_common(1)[0][0] if votes else None
        found.append(0.0 if winner is None else scores[start + answers[start : start + k].index(winner)])
    return float(np.mean(found))


def powers_of_two(n: int) -> list[int]:
    """The k for which pass@k and maj@k are given: 2, 4, 8, … and n.

    Example:
        >>> powers_of_two(20), powers_of_two(1)
        ([2, 4, 8, 16, 20], [])
    """
    return sorted({*(2**i for i in range(1, n.bit_length()) if 2**i <= n), n} - {0, 1})
