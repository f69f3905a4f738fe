"""A pool of grading processes: a hostile sample costs its own slot until its limit, and nobody else anything."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, Literal

from pebble import ProcessExpired, ProcessPool

logger = logging.getLogger(__name__)

MEMORY_BYTES = 4 << 30


class Unparsable(ValueError):
    """A grading function found no answer to compare."""


@dataclass(frozen=True)
class GradeResult:
    """The grade of one sample.

    Attributes:
        score: the outcome reward; 0 unless `status` is `ok`.
        status: `ok`, or why there is no grade: the time ran out, the function failed, no answer was found, or there is
            nothing to compare with.
    """

    score: float
    status: Literal["ok", "timeout", "error", "unparsable", "no_ground_truth"]


def _prepare() -> None:
    """Runs in each grading process: bound its memory, and import what is slow before the first sample's clock starts."""
    sys.setrecursionlimit(2000)
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of every call without its own time limit
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        logger.warning("l2t: math-verify cannot be imported (%s); mathematics will not be graded", error)


class Grader:
    """Runs grading functions in `workers` processes, each sample for at most `seconds_per_sample`.

    The processes start with the first sample. They are fresh interpreters, so functions and arguments must be picklable.

    Example:
        >>> async def main():
        ...     grader = Grader(workers=1, seconds_per_sample=30.0)
        ...     try:
        ...         return await grader.grade(float, "0.5")
        ...     finally:
        ...         grader.close()
        >>> import asyncio
        >>> asyncio.run(main())  # doctest: +SKIP
        GradeResult(score=0.5, status='ok')
    """

    def __init__(self, workers: int = 2, seconds_per_sample: float = 10.0):
        self.workers, self.seconds_per_sample = workers, seconds_per_sample
        self._pool: ProcessPool | None = None
        self._warm: asyncio.Task | None = None

    async def grade(self, function: Callable[..., float], *arguments: Any) -> GradeResult:
        """Grade one sample. Never raises for a bad one: the status says what happened."""
        try:
            if self._warm is None:
                self._warm = asyncio.ensure_future(self._start())
            await asyncio.shield(self._warm)
            future = self._pool.schedule(function, args=arguments, timeout=self.seconds_per_sample)
            return GradeResult(float(await asyncio.wrap_future(future)), "ok")
        except (FutureTimeout, TimeoutError):
            return GradeResult(0.0, "timeout")
        except Unparsable:
            return GradeResult(0.0, "unparsable")
        except (ProcessExpired, MemoryError, Exception) as error:
            logger.info("l2t: a sample could not be graded: %s: %s", type(error).__name__, error)
            return GradeResult(0.0, "error")

    async def _start(self) -> None:
        """Start the processes and wait for their imports, which are nobody's sample."""
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPool(max_workers=self.workers, initializer=_prepare, context=context)
        ready = [self._pool.schedule(_nothing) for _ in range(self.workers)]
        await asyncio.gather(*(asyncio.wrap_future(future) for future in ready), return_exceptions=True)

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join(timeout=10)
            self._pool = None
            self._warm = None


def _nothing() -> None:
    return None
