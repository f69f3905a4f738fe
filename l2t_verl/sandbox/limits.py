"""What a sandboxed program may use."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits of one program; it is one process, which may have threads.

    Attributes:
        seconds: of wall-clock time for the program and its tests together, with some 0.1 s that the sandboxes take.
        memory_mib: of address space.
        disk_mib: everything that it writes; its files live in memory and are gone with it.
        answer_mib: the longest value that a function may return.
    """

    seconds: float = 10.0
    memory_mib: int = 1024
    disk_mib: int = 16
    answer_mib: int = 8
