"""A process behind the walls that is spoken to in lines, under a deadline."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from typing import Any

from l2t_verl.sandbox.isolation import start
from l2t_verl.sandbox.limits import MIB, Limits


class Ended(Exception):
    """The process is over, for the reason that stands in the message: `timeout`, `output`, `died`."""


class Sandboxed:
    """One process; a context manager that leaves nothing of it behind.

    Args:
        task: its first line, to which its limits are added.
        limits: of it.
        deadline: `time.monotonic()` at which it is over.
    """

    def __init__(self, task: dict[str, Any], limits: Limits, deadline: float):
        self.limits, self.deadline, self.buffer = limits, deadline, b""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = start(limits, bufsize=0, **pipes)
        assert self.process.stdout is not None and self.process.stdin is not None  # both are pipes
        self.reading, self.writing = self.process.stdout.fileno(), self.process.stdin.fileno()
        os.set_blocking(self.writing, False)
        kernel = {"memory": limits.memory_mib * MIB, "disk": limits.disk_mib * MIB}
        try:
            self.send(task | {"limits": kernel | {"seconds": int(limits.seconds) + 1}})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Sandboxed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self.process.kill()  # bubblewrap's end is the end of its process namespace
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None  # as above
            with contextlib.suppress(OSError):
                stream.close()

    def send(self, message: dict[str, Any]) -> None:
        """Hand a line over.

        Raises:
            Ended: the process took too long or died.
        """
        rest = json.dumps(message).encode() + b"\n"
        while rest:
            if self._wait(writing=True):
                try:
                    rest = rest[os.write(self.writing, rest) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    raise Ended("died") from None

    def receive(self) -> dict[str, Any]:
        """The next line.

        Raises:
            Ended: as in `send`, or it said something that is no message.
        """
        while b"\n" not in self.buffer:
            if self._wait(writing=False):
                piece = os.read(self.reading, 1 << 16)
                if not piece:
                    raise Ended("died")
                self.buffer += piece
                if len(self.buffer) > self.limits.answer_mib * MIB:
                    raise Ended("output")
        line, self.buffer = self.buffer.split(b"\n", 1)
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise Ended("output") from None
        if not isinstance(message, dict):
            raise Ended("output")
        return message

    def _wait(self, writing: bool) -> bool:
        """Wait for the pipe, to the deadline at most; whether it is ready."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Ended("timeout")
        waiting: tuple[list[int], list[int], list[int]]
        waiting = ([], [self.writing], []) if writing else ([self.reading], [], [])
        return any(select.select(*waiting, left))
