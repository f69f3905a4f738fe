"""Programs, graded by their tests in the sandbox."""

from __future__ import annotations

import ast
import builtins
import re
import textwrap
from collections.abc import Mapping
from typing import Any

from l2t_verl.grading.pool import Unparsable
from l2t_verl.sandbox import Limits, Verdict, run_tests
from l2t_verl.sandbox.tests import defined_by
from l2t_verl.thought import MARKS, Marks, answer_part

# What follows the language, such as a title, belongs to the fence; a fence that the limit on length cut off ends the text
_FENCE = re.compile(r"^[ \t>]*(?:(?:[-*+]|\d+[.)])[ \t]+)?(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^\n`]*)$", re.MULTILINE)
_PYTHON = re.compile(r"(?:\{?\.?\s*(?:i?python\d?(?:\.\d+)?|py3?|py3k|pycon)\b.*)?", re.IGNORECASE | re.DOTALL)
LIMITS = Limits(seconds=5.0)  # well within what a grading process has for a sample


def program_of(
    response: str, tests: Mapping[str, Any] | None = None, marks: Marks = MARKS, opened: bool | None = None
) -> str:
    r"""Find the program in a response: the last fenced block after the thought that defines what the tests call.

    If no block does, or the tests are not known, it is the last block of Python. Blocks with examples of use, asserts or
    output may follow the program; what it needs of the blocks before it (imports, helpers) comes with it.

    Args:
        response: the text.
        tests: see `judge`.
        marks: of the thought.
        opened: whether the prompt has opened a thought.

    Raises:
        Unparsable: there is no block.

    Example:
        >>> program_of("<think>```\nno\n```</think>So:\n```python\nx = 1\n```\nDone.")
        'x = 1\n'
        >>> program_of("```py\ndef f(): pass\n```\nUse:\n```python\nf()\n```", {"source": "assert f() is None"})
        'def f(): pass\n'
        >>> program_of("```py\nimport math\nprint(1)\n```\nThen:\n```py\ndef f(): return math.pi\n```")
        'import math\ndef f(): return math.pi\n'
    """
    tests = tests or {}
    blocks = _blocks(answer_part(response, marks, opened) or "")
    if not blocks:
        raise Unparsable("the response has no fenced block of Python after its thought")
    wanted = _called(tests)
    # the last of those that define most; an import alone is an example of use, unless nothing else is there
    chosen = max(
        reversed(range(len(blocks))),
        key=lambda number: (len(wanted & _defined(blocks[number])), bool(wanted & _defined(blocks[number], imports=True))),
    )
    return _with_helpers(blocks[chosen], blocks[:chosen], _defined(str(tests.get("preamble") or ""), imports=True))


def judge(
    response: str,
    tests: Mapping[str, Any],
    limits: Limits = LIMITS,
    marks: Marks = MARKS,
    opened: bool | None = None,
) -> Verdict:
    """What becomes of a response's program.

    Args:
        response: the text.
        tests: `source` of the tests; `entry`, the function that they are for, if they define `check`; `preamble`, code that
            the program may rely on, and that the tests have as it was, whatever the program makes of it.
        limits: of the program and its tests.
        marks: of the thought.
        opened: whether the prompt has opened a thought.

    Raises:
        Unparsable: there is no program.
        SandboxError: nothing can be sandboxed on this machine.
    """
    preamble, entry = tests.get("preamble") or "", tests.get("entry") or ""
    program = f"{preamble}\n{program_of(response, tests, marks, opened)}"
    helpers = _parsed(preamble)
    known = preamble if helpers is not None and entry not in _names(helpers, imports=True) else ""
    return run_tests(program, f"{known}\n{tests['source']}", entry, limits)


def grade_code_score(response: str, tests: Mapping[str, Any], marks: Marks = MARKS, opened: bool | None = None) -> float:
    """The outcome reward of a program: 1 if it passes all its tests, else 0.

    Args:
        response: the text that holds the program.
        tests: see `judge`.
        marks: of the thought.
        opened: whether the prompt has opened a thought.

    Raises:
        Unparsable: there is no program.
        SandboxError: nothing can be sandboxed on this machine.
    """
    return float(judge(response, tests, LIMITS, marks, opened).passed)


def _blocks(text: str) -> list[str]:
    """The fenced blocks of Python, or of no language, each without the indentation of its fence."""
    found, opening = [], None
    for fence in _FENCE.finditer(text.replace("\r\n", "\n") if "\r\n" in text else text):
        source = fence.string
        if opening is None:
            opening = fence
        elif _indent(fence) > _indent(opening) + 3:  # of a docstring
            continue
        elif fence["fence"].startswith(opening["fence"]) and not fence["info"].strip():
            found.append((opening, source[opening.end() + 1 : fence.start()]))
            opening = None
        elif fence["fence"][0] == opening["fence"][0] and fence["info"].strip():  # the one before was never closed
            found.append((opening, source[opening.end() + 1 : fence.start()]))
            opening = fence
    if opening is not None:
        rest = opening.string[opening.end() + 1 :]
        end = re.search(rf"{re.escape(opening['fence'])}[ \t]*$", rest, re.MULTILINE)  # it closes behind the last statement
        found.append((opening, rest[: end.start()] if end else rest))
    return [_plain(opening, body) for opening, body in found if _PYTHON.fullmatch(opening["info"].strip()) and body.strip()]


def _indent(fence: re.Match[str]) -> int:
    """Characters before a fence: spaces, the mark of a quotation or of a list."""
    return fence.start("fence") - fence.start()


def _plain(fence: re.Match[str], body: str) -> str:
    """A block without what its lines begin with since its fence does, and without the prompts of a listing."""
    quote = re.match(r"[ \t]*>[ \t]?", fence[0])
    if quote:
        body = re.sub(r"(?m)^[ \t]*>[ \t]?", "", body)
    body = textwrap.dedent(body) if _indent(fence) or body[:1] in " \t" else body
    if body.lstrip().startswith(">>> "):
        body = "".join(f"{line[4:]}\n" for line in body.splitlines() if re.match(r"(?:>>>|\.\.\.)(?: |$)", line))
    return body


def _with_helpers(program: str, earlier: list[str], known: set[str]) -> str:
    """A program behind the imports, functions and classes of earlier blocks that it needs; nothing else of them runs."""
    tree = _parsed(program)
    if tree is None:
        return program
    helpers = ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom
    offered = [of for block in map(_parsed, earlier) if block for of in block.body if isinstance(of, helpers)]
    taken: list[str] = []
    known = known | _names(tree, imports=True) | set(dir(builtins))
    needed = _free(tree) - known
    for helper in reversed(offered):  # the last definition counts, and may need what stands before it
        if gives := (_imported(helper) | set(defined_by(helper))) & needed:
            taken.insert(0, f"{ast.unparse(helper)}\n")
            known |= gives
            needed = (needed | _free(helper)) - known
    return "".join(taken) + program


def _free(tree: ast.AST) -> set[str]:
    """The names that are used and nowhere assigned."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    assigned = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    assigned |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
    return {name.id for name in names} - assigned


def _called(tests: Mapping[str, Any]) -> set[str]:
    """The names that tests take from the program: the entry, or whatever they use and do not define."""
    if entry := tests.get("entry"):
        return {str(entry)}
    tree = _parsed(str(tests.get("source") or ""))
    if tree is None:
        return set()
    used = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    return used - _names(tree, imports=True) - set(dir(builtins))


def _defined(program: str, imports: bool = False) -> set[str]:
    tree = _parsed(program)
    if tree is not None:
        return _names(tree, imports)
    return set(re.findall(r"^(?:async\s+)?(?:def|class)\s+(\w+)", program, re.MULTILINE))  # cut off, or no Python


def _names(tree: ast.Module, imports: bool = False) -> set[str]:
    """What a module's own statements define; with `imports`, what they import as well."""
    found = {name for statement in tree.body for name in defined_by(statement)}
    return found | {name for statement in tree.body for name in _imported(statement)} if imports else found


def _imported(statement: ast.stmt) -> set[str]:
    if not isinstance(statement, (ast.Import, ast.ImportFrom)):
        return set()
    return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}


def _parsed(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
