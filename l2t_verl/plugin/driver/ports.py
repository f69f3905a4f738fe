"""The port at which the ranks of a worker group meet, of those that no program is given unasked.

verl takes one that is free, and rank 0 listens there once it has been imported, ten seconds later and more. Meanwhile the
kernel may give it to any connection of any program of that node, since it is one of those that it gives away; the run then
ends with `EADDRINUSE`. Below them a port is taken by who names it.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from verl.single_controller.ray.base import RayWorkerGroup

GIVEN_AWAY = Path("/proc/sys/net/ipv4/ip_local_port_range")
FIRST = 20_000  # Ray's own workers have those up to 19,999
TRIED = 100  # ports, one after the other


def free_range(first_given_away: int) -> list[int] | None:
    """Where verl looks for a free port, from one end to the other; None where the kernel gives away all of them.

    Two runs that start at once look in different places.

    Args:
        first_given_away: the lowest port that a program may be given without having named it.

    Example:
        >>> first, end = free_range(32768)
        >>> 20_000 <= first < end <= 32768
        True
        >>> free_range(1024)
    """
    starts = range(FIRST, first_given_away - TRIED + 1)
    if not starts:
        return None
    start = random.SystemRandom().choice(starts)  # verl seeds the other
    return [start, start + TRIED]


def first_given_away(file: Path = GIVEN_AWAY) -> int:
    """The lowest port that this node's kernel gives away; 0 where it does not say."""
    try:
        return int(file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def with_range(init: Callable[..., None]) -> Callable[..., None]:
    """A worker group's `__init__` with a range of ports, where none is asked for."""

    @functools.wraps(init)
    def wrapped(self: Any, *arguments: Any, **named: Any) -> None:
        if "master_port" not in named and (ports := free_range(first_given_away())):
            named.setdefault("master_port_range", ports)
        init(self, *arguments, **named)

    return wrapped


RayWorkerGroup.__init__ = with_range(RayWorkerGroup.__init__)
