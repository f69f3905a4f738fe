"""Programming problems, as MBPP and HumanEval publish them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from l2t_verl.data.problems import Problem, Tests, column


def code_problem_of(row: Mapping[str, Any], position: int) -> Problem:
    r"""Read a row of MBPP or of HumanEval.

    MBPP's question shows the first test, without which nobody would know the function's name; the others are held back.

    Raises:
        MissingColumn: a column is missing.

    Example:
        >>> code = "def d(x):\r\n  return 2 * x"
        >>> row = {"text": "Double it.", "code": code, "test_list": ["assert d(1) == 2"], "task_id": 7}
        >>> problem = code_problem_of(row, 0)
        >>> problem.question, problem.answer
        ('Double it.\n\nIt should pass this test:\nassert d(1) == 2', 'def d(x):\n  return 2 * x')
    """
    name = str(row.get("task_id", position))
    if "entry_point" in row:
        entry, prompt = row["entry_point"], column(row, "prompt")
        preamble = prompt[: prompt.index(f"def {entry}")].strip()
        question = f"Complete this Python function.\n\n```python\n{prompt.rstrip()}\n```"
        answer = (prompt + column(row, "canonical_solution")).strip()
        return Problem(name, question, answer, tests=Tests(column(row, "test").strip(), entry, preamble))
    tests = [test.strip() for test in column(row, "test_list")]
    source = "\n".join([(row.get("test_setup_code") or "").strip(), *tests]).strip()
    text = column(row, "text", "prompt", what="question")
    question = f"{text.strip()}\n\nIt should pass this test:\n{tests[0] if tests else ''}"
    return Problem(name, question, column(row, "code").replace("\r\n", "\n").strip(), tests=Tests(source))
