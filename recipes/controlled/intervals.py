"""Means over runs and their intervals, with the starts held fixed: what more seeds of the same starts would give."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

Values = Sequence[tuple[int, float]]  # the start and the value of each run


@dataclass(frozen=True)
class Estimate:
    """A mean, with a 95 % interval.

    Attributes:
        mean: of the starts' means.
        half: half the interval's width; NaN below two degrees of freedom.
        p: two-sided, of the mean being 0; NaN likewise.
        low: the lowest value.
        high: the highest.
        count: values.
    """

    mean: float
    half: float
    p: float
    low: float
    high: float
    count: int

    def text(self, scale: float = 1.0, digits: int = 1) -> str:
        """The mean and its interval; of too few values their range, of one itself.

        Example:
            >>> [estimate([(1, float(v)) for v in values]).text() for values in ([1, 2, 3], [1, 2], [1])]
            ['2.0 ± 2.5', '1.5 (1.0 to 2.0)', '1.0']
        """
        mean, half, low, high = (f"{scale * value:.{digits}f}" for value in (self.mean, self.half, self.low, self.high))
        if np.isnan(self.half):
            return f"{mean} ({low} to {high})" if self.count > 1 else mean
        return f"{mean} ± {half}"


def estimate(values: Values, base: Values = ()) -> Estimate:
    r"""Mean of the starts' means, or of their differences from a base's, by Student's t.

    m = (1/S) Σ_s (x̄_s − ȳ_s) and SE² = σ̂² Σ_s (1/n_s + 1/m_s) / S², with the variance σ̂² pooled over all cells (a start's
    runs of one side), on Σ_s (n_s − 1 + m_s − 1) degrees of freedom. Without a base, its terms fall away: for values of one
    start that is the ordinary interval of a mean, for values paired by seed the paired one within starts.

    Args:
        values: start and value of each run.
        base: likewise of the runs to subtract, in no order; every start of `values` has to be among them.

    Raises:
        ValueError: there is no value, or a start has no base.

    Example:
        >>> estimate([(1, 1.0), (1, 3.0), (2, 11.0), (2, 13.0)]).text()  # the starts' own difference widens nothing
        '7.0 ± 3.0'
        >>> estimate([(1, 2.0), (1, 4.0)], [(1, 1.0), (1, 1.0), (2, 9.0)]).mean
        2.0
    """
    own, other = _by_start(values), _by_start(base)
    if not own or (other and set(own) - set(other)):
        raise ValueError(f"values of the starts {sorted(own)}, a base of the starts {sorted(other)}")
    means = [np.mean(own[start]) - (np.mean(other[start]) if other else 0.0) for start in own]
    cells = [side[start] for side in (own, other) if side for start in own]
    freedom = sum(len(cell) - 1 for cell in cells)
    half = p = float("nan")
    if freedom > 1:
        variance = sum(np.square(np.subtract(cell, np.mean(cell))).sum() for cell in cells) / freedom
        error = float(np.sqrt(variance * sum(1 / len(cell) for cell in cells))) / len(own)
        half = float(stats.t.ppf(0.975, freedom)) * error
        p = float(2 * stats.t.sf(abs(np.mean(means)) / error, freedom)) if error else float(np.mean(means) == 0)
    every = [value for _, value in values]
    return Estimate(float(np.mean(means)), half, p, min(every), max(every), len(every))


def _by_start(values: Values) -> dict[int, list[float]]:
    found: dict[int, list[float]] = defaultdict(list)
    for start, value in values:
        found[start].append(value)
    return found


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    found, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        found[i] = round(largest, 12)
    return found
