"""Runs inside the sandbox, alone but for values.py: a program that answers calls, or tests that make them.

The two never share a process: a program sees the arguments of a call and nothing else of its tests.
"""

from __future__ import annotations

import builtins
import json
import os
import resource
import sys
from typing import Any, TextIO

sys.path.insert(0, "/inside")
import values


def limit(memory: int, disk: int, seconds: int) -> None:
    """Limits that the kernel keeps."""
    limits = {"AS": memory, "FSIZE": disk, "CPU": seconds, "CORE": 0, "NOFILE": 64}
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def wires() -> tuple[TextIO, TextIO]:
    """What is spoken on, taken away from the program's own standard streams."""
    spoken = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    return spoken


def answer(reading: TextIO, writing: TextIO, code: str) -> None:
    """A program: run it, then answer calls of its functions."""
    namespace: dict[str, Any] = {"__name__": "program"}
    found: dict[str, Any] = {}
    try:
        exec(compile(code, "program.py", "exec"), namespace)
    except BaseException as error:  # a program may raise SystemExit
        found = raised(error)
    writing.write(json.dumps(found) + "\n")
    for line in reading:
        call = json.loads(line)
        try:
            arguments, named = values.loads(call["arguments"])
            found = {"returned": values.dumps(namespace[call["call"]](*arguments, **named))}
        except BaseException as error:
            found = raised(error)
        writing.write(json.dumps(found) + "\n")


def examine(reading: TextIO, writing: TextIO, tests: str, names: list[str], entry: str) -> None:
    """Tests: run them on functions that live elsewhere."""

    def remote(name: str) -> Any:
        def function(*arguments: Any, **named: Any) -> Any:
            writing.write(json.dumps({"call": name, "arguments": values.dumps((arguments, named))}) + "\n")
            found = json.loads(reading.readline())
            if "returned" in found:
                return values.loads(found["returned"])
            kind = getattr(builtins, found["raised"], None)
            # StopIteration would end a `map` over the function, and with it the tests in it
            is_error = isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, StopIteration)
            raise (kind if is_error else RuntimeError)(found["text"])

        return function

    namespace: dict[str, Any] = {"__name__": "tests", **{name: remote(name) for name in names}}
    try:
        exec(compile(tests, "tests.py", "exec"), namespace)
        if entry:
            namespace["check"](namespace[entry])
        found = {"passed": True}
    except BaseException as error:
        found = {"passed": False, **raised(error)}
    writing.write(json.dumps(found) + "\n")


def raised(error: BaseException) -> dict[str, str]:
    """An exception, to be raised again elsewhere."""
    try:
        text = str(error)[:500]
    except BaseException:  # a hostile one
        text = ""
    return {"raised": type(error).__name__, "text": text}


def main() -> None:
    """`check`, or what the first line on standard input says."""
    if sys.argv[1:] == ["check"]:
        return
    reading, writing = wires()
    task = json.loads(reading.readline())
    limit(**task["limits"])
    if "program" in task:
        answer(reading, writing, task["program"])
    else:
        examine(reading, writing, task["tests"], task["names"], task["entry"])


main()
