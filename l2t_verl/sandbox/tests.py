"""A program against its tests: each in a sandbox of its own, calls going from one to the other."""

from __future__ import annotations

import ast
import builtins
import time
from collections.abc import Sequence
from dataclasses import dataclass

from l2t_verl.sandbox.isolation import require
from l2t_verl.sandbox.limits import Limits
from l2t_verl.sandbox.process import Ended, Sandboxed


@dataclass(frozen=True)
class Verdict:
    """What became of a program.

    Attributes:
        passed: all its tests.
        reason: if not, why: `wrong` (a test failed), `error` (it or a test raised), `syntax` (it is no program), `timeout`,
            `output` (too much of it, or what is none), `died`.
        detail: the exception, for a person.
    """

    passed: bool
    reason: str = ""
    detail: str = ""


def run_tests(program: str, tests: str, entry: str = "", limits: Limits | None = None) -> Verdict:
    r"""Whether a program passes its tests.

    The program sees the arguments that its functions are called with, never the tests: it cannot read what is expected, nor
    end the tests early, nor take the place of what they compare with, and what it returns has been made a plain value before
    it is compared. The price: tests see the functions, classes and names that a program assigns at its top level (not those
    that it imports, or binds in a loop), classes only as functions that return plain values, and nothing that a function
    changes in its arguments.

    Args:
        program: Python source.
        tests: Python source that calls the program's functions and raises if they are wrong.
        entry: name of the function that the tests' own `check` is called with, if they define it (HumanEval).
        limits: of the program and of the tests.

    Returns:
        The verdict.

    Raises:
        SandboxError: nothing can be sandboxed on this machine.

    Example:
        >>> run_tests("def double(x):\n    return 2 * x", "assert double(4) == 8").passed
        True
    """
    require()
    try:
        names = functions_of(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return Verdict(False, "syntax", str(error))
    if entry and entry not in names:
        return Verdict(False, "error", f"the program defines no {entry}")
    limits = limits or Limits()
    deadline = time.monotonic() + limits.seconds
    try:
        with Sandboxed({"program": program}, limits, deadline) as answering:
            if said := answering.receive():
                return Verdict(False, "error", f"{said['raised']}: {said['text']}")
            task = {"tests": tests, "names": offered(names, tests, entry), "entry": entry}
            with Sandboxed(task, limits, deadline) as asking:
                while "passed" not in (message := asking.receive()):
                    answering.send(message)
                    asking.send(answering.receive())
    except Ended as end:
        return Verdict(False, str(end))
    except KeyError:  # a program that speaks for itself on the sandbox's wire
        return Verdict(False, "output")
    if message["passed"]:
        return Verdict(True)
    reason = "wrong" if message["raised"] == "AssertionError" else "error"
    return Verdict(False, reason, f"{message['raised']}: {message['text']}")


def functions_of(program: str) -> list[str]:
    r"""Names of what can be called: functions and classes at the program's top level, and names that it assigns there.

    Raises:
        SyntaxError: it is no Python.

    Example:
        >>> functions_of("def f(): ...\ng = f\nx: int = 1\na, b = f, g\nif a:\n    def h(): ...")
        ['f', 'g', 'x', 'a', 'b', 'h']
    """
    return [name for statement in ast.parse(program).body for name in defined_by(statement)]


def defined_by(statement: ast.AST) -> list[str]:
    r"""The names that a statement defines or assigns, those inside an `if`, a `try` or a `with` too; none that it imports.

    Example:
        >>> [defined_by(statement) for statement in ast.parse("import a\nb: int\nfor c in d: e = c\nf = 1").body]
        [[], [], [], ['f']]
    """
    names, waiting = [], [statement]
    while waiting:  # no recursion: a long chain of `elif` is a deep tree
        node = waiting.pop(0)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, ast.Assign) or (isinstance(node, ast.AnnAssign) and node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [part for of in targets for part in (of.elts if isinstance(of, (ast.Tuple, ast.List)) else [of])]
            names += [part.id for part in parts if isinstance(part, ast.Name)]
        elif isinstance(node, (ast.If, ast.Try, ast.ExceptHandler, ast.With)):
            waiting = [
                inner for inner in ast.iter_child_nodes(node) if isinstance(inner, (ast.stmt, ast.ExceptHandler))
            ] + waiting
    return names


def offered(names: Sequence[str], tests: str, entry: str = "") -> list[str]:
    """The names of a program that its tests see: `abs` and `set` stay Python's, by which they compare what it returns.

    Unless the tests are for a function of such a name, as MBPP has a `sum`: they call nothing else of the program's.

    Args:
        names: of the program, as `functions_of` gives them.
        tests: Python source.
        entry: the function that the tests are for, where it is known.

    Example:
        >>> offered(["f", "abs"], "assert abs(f(1) - 2) < 1e-6"), offered(["sum"], "assert sum(10, 15) == 6")
        (['f'], ['sum'])
    """
    own = [name for name in names if name == entry or not (hasattr(builtins, name) or name.startswith("__"))]
    try:
        called = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # they will not run either
        return own
    return own if entry or called.intersection(own) else [name for name in names if not name.startswith("__")]
