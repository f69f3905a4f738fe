"""One engine for each GPU: processes that take whole batches, so that each batch comes out as it does of one engine."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import psutil

from l2t_verl.evaluate.engines import Engine, EngineError, Generated, Request


def generate_each(
    engine: Engine | EngineProcesses, batches: Iterable[Sequence[Request]]
) -> Iterator[tuple[int, list[Generated]]]:
    """Generate batches, on one engine or several.

    Args:
        engine: what generates.
        batches: taken one by one, when an engine is free.

    Yields:
        The number of each batch and what was generated for it, as soon as it is done.

    Raises:
        EngineError: an engine failed or ended; batches that the others had begun are yielded first.
    """
    if isinstance(engine, EngineProcesses):
        yield from engine.generate_each(batches)
    else:
        for number, batch in enumerate(batches):
            yield number, engine.generate(batch)


def groups_of_gpus(per_engine: int) -> list[str]:
    """Divide this machine's GPUs among engines.

    Args:
        per_engine: GPUs that one engine takes.

    Returns:
        The GPUs of each engine, as CUDA_VISIBLE_DEVICES names them; empty without a GPU.
    """
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",")[:count] if named else [str(number) for number in range(count)]
    whole = len(gpus) // per_engine * per_engine
    return [",".join(gpus[start : start + per_engine]) for start in range(0, whole, per_engine)]


def engines_wanted(asked: str, groups: Sequence[str], batches: int, per_engine: int) -> int:
    """Decide how many engines to start: as many as asked for, or one for each GPU (`auto`), but no more than batches.

    Args:
        asked: a number or `auto`.
        groups: the GPUs of each engine; none without a GPU, where any number may be asked for and `auto` is 1.
        batches: that have to be sampled.
        per_engine: GPUs that one engine takes.

    Raises:
        ValueError: `asked` is neither, or more than the GPUs allow.

    Example:
        >>> engines_wanted("auto", ["0", "1", "2"], 100, 1), engines_wanted("auto", ["0", "1", "2"], 2, 1)
        (3, 2)
        >>> engines_wanted("auto", [], 100, 1)
        1
    """
    if asked != "auto" and not (asked.isdecimal() and int(asked) >= 1):
        raise ValueError(f"--data-parallel {asked}: take a number from 1, or auto for one engine on each GPU")
    number = max(1, len(groups)) if asked == "auto" else int(asked)
    if groups and number > len(groups):
        raise ValueError(
            f"--data-parallel {number}: the GPUs in sight are enough for {len(groups)} engines of {per_engine}; take auto"
        )
    return max(1, min(number, batches))


class EngineProcesses:
    """Engines in processes of their own; the tokenizer is the first one's.

    They end with this process, however it ends.

    Args:
        start: makes an engine; called in each process.
        devices: of each engine, as CUDA_VISIBLE_DEVICES names them; None leaves the variable alone.

    Raises:
        EngineError: one of them does not start.
    """

    def __init__(self, start: Callable[[], Engine], devices: Sequence[str | None]):
        spawning = multiprocessing.get_context("spawn")
        self.devices = list(devices)
        self.processes: list[SpawnProcess] = []
        self.pipes: list[Connection] = []
        for device in devices:
            ours, theirs = spawning.Pipe()
            process = spawning.Process(target=_serve, args=(start, device, theirs))
            process.start()
            theirs.close()  # else its end would not be seen
            self.processes.append(process)
            self.pipes.append(ours)
        try:
            self.tokenizer, *_ = [self._received(number) for number in range(len(self.pipes))]
        except BaseException:
            self.close()
            raise

    def generate_each(self, batches: Iterable[Sequence[Request]]) -> Iterator[tuple[int, list[Generated]]]:
        """See the function of this name."""
        left = enumerate(batches)
        under_way: dict[Connection, int] = {}
        failure: EngineError | None = None

        def send(engine: int) -> None:
            if (item := next(left, None)) is not None:
                number, batch = item
                under_way[self.pipes[engine]] = number
                with suppress(OSError):  # if it has ended, that is seen when its answer is read
                    self.pipes[engine].send(list(batch))

        for engine in range(len(self.pipes)):
            send(engine)
        while under_way:
            for pipe in wait(list(under_way)):
                engine = next(i for i, known in enumerate(self.pipes) if known is pipe)
                number = under_way.pop(self.pipes[engine])
                try:
                    generated = self._received(engine)
                except EngineError as error:
                    failure = failure or error
                    continue
                if failure is None:
                    send(engine)  # before the others' grading, so that it does not wait for it
                yield number, generated
        if failure is not None:
            raise failure

    def close(self) -> None:
        """End them."""
        for pipe in self.pipes:
            pipe.close()
        until = time.monotonic() + 30  # the one that is amid a batch is not waited for longer
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                _end(process.pid)
                process.join()

    def _received(self, engine: int) -> Any:
        try:
            found = self.pipes[engine].recv()
        except (EOFError, OSError) as error:
            process = self.processes[engine]
            process.join(10)
            where = f" (CUDA_VISIBLE_DEVICES={self.devices[engine]})" if self.devices[engine] is not None else ""
            raise EngineError(
                f"engine {engine + 1} of {len(self.pipes)}{where} ended with status {process.exitcode}; what the others "
                "sampled is kept: start the same command again"
            ) from error
        if isinstance(found, EngineError):
            raise found
        return found


def _serve(start: Callable[[], Engine], device: str | None, pipe: Connection) -> None:
    """One engine's process: a list of requests comes in, what was generated or the error goes out, until the pipe ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        engine = start()
    except EngineError as error:
        pipe.send(error)
        return
    pipe.send(engine.tokenizer)
    try:
        while True:
            try:
                pipe.send(engine.generate(pipe.recv()))
            except EngineError as error:
                pipe.send(error)
    except (EOFError, OSError, KeyboardInterrupt):
        pass  # the parent has what it wanted, or is gone
    finally:
        engine.close()


def _end_with_parent() -> None:
    """A batch takes minutes, and a GPU is not held that long for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    _end(os.getpid())


def _end(pid: int | None) -> None:
    """End a process with the ones that it has started, as vLLM does."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (*process.children(recursive=True), process):
            one.kill()
