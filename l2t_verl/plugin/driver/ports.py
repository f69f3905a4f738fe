"""The port at which the ranks of a worker group meet, which is no ephemeral one.

verl takes one that is free, and rank 0 listens there once it has been imported, ten seconds later and more. It is an
ephemeral port, so that the kernel may give it meanwhile to any connection of any program of that node; the run then ends
with `EADDRINUSE`. Below them a port is taken by who names it.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from verl.single_controller.ray.base import RayWorkerGroup

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
FIRST, END = 20_000, 30_000  # Ray's own workers have those below, Kubernetes' services those above
TRIED = 100  # ports, one after the other


def free_range(first_ephemeral: int) -> list[int] | None:
    """Where verl looks for a free port, from one end to the other; None where all of them are ephemeral.

    Two runs that start at once look in different places.

    Args:
        first_ephemeral: the lowest port that a program may be given without having named it; the driver's node says it for
            that of rank 0.

    Example:
        >>> first, end = free_range(32768)
        >>> 20_000 <= first < end <= 30_000
        True
        >>> free_range(1024)
    """
    starts = range(FIRST, min(first_ephemeral, END) - TRIED + 1)
    if not starts:
        return None
    start = random.SystemRandom().choice(starts)  # verl seeds the other
    return [start, start + TRIED]


def first_ephemeral(file: Path = EPHEMERAL) -> int:
    """The lowest ephemeral port of this node; 0 where it does not say."""
    try:
        return int(file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def with_range(init: Callable[..., None]) -> Callable[..., None]:
    """A worker group's `__init__` with a range of ports, where none is asked for."""

    @functools.wraps(init)
    def wrapped(self: Any, *arguments: Any, **named: Any) -> None:
        if "master_port" not in named and (ports := free_range(first_ephemeral())):
            named.setdefault("master_port_range", ports)
        init(self, *arguments, **named)

    return wrapped


RayWorkerGroup.__init__ = with_range(RayWorkerGroup.__init__)
