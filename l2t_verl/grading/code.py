"""Programs, graded by their tests in the sandbox."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from l2t_verl.grading.pool import Unparsable
from l2t_verl.sandbox import Limits, Verdict, run_tests

_BLOCK = re.compile(r"^[ \t]*```[ \t]*(?:python3?|py)?[ \t]*\r?\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE | re.IGNORECASE)
LIMITS = Limits(seconds=5.0)  # well within what a grading process has for a sample


def program_of(response: str) -> str:
    r"""The program that a response ends in: its last fenced block of Python, the thought left out.

    Raises:
        Unparsable: there is none.

    Example:
        >>> program_of("<think>```\nno\n```</think>So:\n```python\nx = 1\n```\nDone.")
        'x = 1\n'
    """
    blocks = _BLOCK.findall(response.rpartition("</think>")[2])
    if not blocks:
        raise Unparsable("the response has no fenced block of Python after its thought")
    return blocks[-1]


def judge(response: str, tests: Mapping[str, Any], limits: Limits = LIMITS) -> Verdict:
    """What becomes of a response's program.

    Args:
        response: the text.
        tests: `source` of the tests; `entry`, the function that they are for, if they define `check`; `preamble`, code that
            the program may rely on.
        limits: of the program and its tests.

    Raises:
        Unparsable: there is no program.
        SandboxError: nothing can be sandboxed on this machine.
    """
    program = f"{tests.get('preamble') or ''}\n{program_of(response)}"
    return run_tests(program, tests["source"], tests.get("entry") or "", limits)


def grade_code_score(response: str, tests: Mapping[str, Any]) -> float:
    """The outcome reward: 1 if the program passes all its tests, else 0."""
    return float(judge(response, tests).passed)
