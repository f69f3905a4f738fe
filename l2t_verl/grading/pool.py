"""A pool of grading processes: a hostile sample costs its own slot until its limit, and nobody else anything."""

from __future__ import annotations

import asyncio
import importlib
import logging
import math
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Literal

from pebble import ProcessPool

logger = logging.getLogger(__name__)

MEMORY_BYTES = 4 << 30
CHECK_SECONDS = 2.0  # how often a waiting sample looks whether the pool still lives


class Unparsable(ValueError):
    """A grading function found no answer to compare."""


@dataclass(frozen=True)
class GradeResult:
    """The grade of one sample.

    Attributes:
        score: the outcome reward; 0 unless `status` is `ok`.
        status: `ok`, or why there is no grade: the time ran out, the function failed, no answer was found, or there is
            nothing to compare with.
        accuracy: whether the answer is right; the score, unless the scorer tells them apart.
    """

    score: float
    status: Literal["ok", "timeout", "error", "unparsable", "no_ground_truth"]
    accuracy: float = 0.0

    @classmethod
    def of(cls, value: Any) -> GradeResult:
        """The grade in a scorer's return value: a number, or verl's mapping of `score` and, where they differ, `acc`.

        Raises:
            ValueError: it is not finite.

        Example:
            >>> GradeResult.of(True), GradeResult.of({"score": -1.0, "acc": False})  # doctest: +NORMALIZE_WHITESPACE
            (GradeResult(score=1.0, status='ok', accuracy=1.0),
             GradeResult(score=-1.0, status='ok', accuracy=0.0))
        """
        score = float(value["score"] if isinstance(value, dict) else value)
        accuracy = float(value.get("acc", score)) if isinstance(value, dict) else score
        if not math.isfinite(score) or not math.isfinite(accuracy):
            raise ValueError(f"the grade is not finite: score {score}, acc {accuracy}")
        return cls(score, "ok", accuracy)


class _Process(SpawnProcess):
    """A grading process that is ended at once, with whatever it has started.

    pebble asks it to end and waits for seconds while it holds the channel of all of them.
    """

    def terminate(self) -> None:
        try:
            if self.pid is not None:
                os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:  # it has not got as far as to lead a group
            self.kill()


class QuietContext(SpawnContext):
    """Makes grading processes, and keeps the locks that it makes for them.

    pebble lets go of the locks before it ends its processes; one that is still starting would not find them, and print how.
    """

    Process = _Process

    def __init__(self) -> None:
        super().__init__()
        self._locks: list[Any] = []

    def RLock(self) -> Any:
        """Make a lock, as the context it comes from does."""
        self._locks.append(super().RLock())
        return self._locks[-1]


def _prepare(imports: tuple[str, ...]) -> None:
    """Runs in each grading process: bound its memory, and import what is slow before the first sample's clock starts."""
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    multiprocessing.set_start_method("fork", force=True)  # scorers of programs start processes; a fresh one takes seconds
    sys.setrecursionlimit(2000)
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns of every call without its own time limit
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    for name in imports:
        try:
            importlib.import_module(name)
        except ImportError as error:
            logger.warning("l2t: %s cannot be imported (%s); what needs it will not be graded", name, error)


def _end_with_parent() -> None:
    """A process in the middle of a sample would not notice that its parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os.killpg(0, signal.SIGKILL)


def _grade(sample: bytes) -> tuple[GradeResult, str]:
    """Runs in a grading process. Only plain values go back: an exception that cannot be rebuilt would break the pool."""
    try:
        function, arguments = pickle.loads(sample)
        return GradeResult.of(function(*arguments)), ""
    except Unparsable as error:
        return GradeResult(0.0, "unparsable"), str(error)
    except BaseException as error:
        return GradeResult(0.0, "error"), traceback.format_exception_only(error)[-1].strip()[:500]


class Grader:
    """Runs grading functions in `workers` processes, each sample for at most `seconds_per_sample`.

    The processes start with the first sample. They are fresh interpreters, so functions and arguments must be picklable;
    `imports` are modules that they import before a sample's time starts.

    Example:
        >>> async def main():
        ...     grader = Grader(workers=1, seconds_per_sample=30.0)
        ...     try:
        ...         return await grader.grade(float, "0.5")
        ...     finally:
        ...         grader.close()
        >>> import asyncio
        >>> asyncio.run(main())  # doctest: +SKIP
        GradeResult(score=0.5, status='ok', accuracy=0.5)
    """

    def __init__(self, workers: int = 2, seconds_per_sample: float = 10.0, imports: tuple[str, ...] = ("math_verify",)):
        self.workers, self.seconds_per_sample, self.imports = workers, seconds_per_sample, imports
        self._pool: ProcessPool | None = None

    async def grade(self, function: Callable[..., Any], *arguments: Any) -> GradeResult:
        """Grade one sample. Never raises for a bad one: the status says what happened."""
        try:
            # pickled here and not by pebble, whose threads do not survive a sample that cannot be
            result, note = await self._run(pickle.dumps((function, arguments)))
        except TimeoutError:
            result, note = GradeResult(0.0, "timeout"), f"it took more than {self.seconds_per_sample} s"
        except Exception as error:
            result, note = GradeResult(0.0, "error"), f"{type(error).__name__}: {error}"
        if note:
            logger.info("l2t: a sample could not be graded: %s", note)
        return result

    async def _run(self, sample: bytes) -> tuple[GradeResult, str]:
        """Run a sample in the pool; once more if the pool breaks, which pebble's does when an idle process is killed."""
        for is_last in (False, True):
            if self._pool is None:
                self._pool = ProcessPool(
                    self.workers, initializer=_prepare, initargs=(self.imports,), context=QuietContext()
                )
            pool = self._pool
            try:
                return await _result(pool, pool.schedule(_grade, args=(sample,), timeout=self.seconds_per_sample))
            except RuntimeError:
                if is_last or self._pool is None:  # or it was closed meanwhile
                    raise
                if self._pool is pool:
                    self.close()
        raise AssertionError("unreachable")

    def close(self) -> None:
        """End the processes and whatever they have started."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()
            pool.join(timeout=10)


async def _result(pool: ProcessPool, future: Any) -> tuple[GradeResult, str]:
    """Wait for a sample; a pool that breaks or is closed forgets the samples that still queue."""
    waiting = asyncio.wrap_future(future)
    try:
        while not (await asyncio.wait([waiting], timeout=CHECK_SECONDS))[0]:
            if not pool.active:
                raise RuntimeError("the grading processes are gone")
        found: tuple[GradeResult, str] = waiting.result()
        return found
    finally:
        waiting.cancel()
