"""Handed cases: inputs that were graded or read wrongly, each with what is expected, by the call that it names."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import byte_tokenizer

from l2t_verl import data, episodes, gain
from l2t_verl.data.code import code_problem_of
from l2t_verl.data.rows import file_rows
from l2t_verl.grading import Unparsable, grade_math
from l2t_verl.grading.code import judge
from l2t_verl.grading.truth import accepted_answers
from l2t_verl.inspector.records import Record, Skipped, read


def failing(cases: Path, files: Sequence[Path]) -> tuple[int, list[str]]:
    """How many cases a file holds, and those that do not give what is expected.

    Args:
        cases: JSON, a list of `kind`, `call`, `input` and `expected`.
        files: among them the one with the tests of the programs' problems.
    """
    known = json.loads(cases.read_text())
    wrong = []
    for case in known:
        try:
            right = _holds(case, files)
        except Exception as error:
            right, case = False, case | {"error": f"{type(error).__name__}: {error}"}
        if not right:
            wrong.append(json.dumps(case, ensure_ascii=False))
    return len(known), wrong


def _holds(case: dict[str, Any], files: Sequence[Path]) -> bool:
    given = case["input"]
    if "truth" in given:
        return _grade(**given) == bool(case["expected"])
    if "problem" in given:
        verdict = judge(given["response"], _tests(given["problem"], files))
        return ("passed" if verdict.passed else "failed") == case["expected"]
    if "jsonl" in given and "inspect" in case["call"]:
        return _is_named(given["jsonl"])
    if "jsonl" in given or "csv" in given:
        return _is_read(case)
    if "answers" in given:
        return _is_one_target(given)
    return _is_cut(given)


def _grade(response: str, truth: str) -> bool:
    try:
        return grade_math(response, truth)
    except Unparsable:
        return False


def _tests(name: str, files: Sequence[Path]) -> dict[str, Any]:
    """The tests of a problem in one of the files.

    Raises:
        LookupError: no file has it.
    """
    for file in files:
        for position, row in enumerate(file_rows(file)):
            if row.get("task_id") == name:
                tests = code_problem_of(row, position).tests
                assert tests is not None
                return {"source": tests.source, "entry": tests.entry, "preamble": tests.preamble}
    raise LookupError(f"no file that was named holds {name}")


def _is_named(line: str) -> bool:
    """A row that no tokenizer takes is skipped with a reason, and the next is read."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text(f"{line}\n{json.dumps({'problem': '2+3?', 'response': '5', 'answer': '5'})}\n")
        first, second = read(file)
    return isinstance(first, Skipped) and "surrogate" in first.reason and isinstance(second, Record)


def _is_read(case: dict[str, Any]) -> bool:
    """One problem, with its answer; without one where it is no number."""
    ((suffix, content),) = case["input"].items()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"rows.{suffix}"
        file.write_text(content.replace("\\ufeff", "\ufeff"))
        problems = data.load("math500", file)
    return [problem.answer for problem in problems] == ["" if case["expected"] == "no answer" else "5"]


def _is_one_target(given: dict[str, Any]) -> bool:
    """Whatever stands around a truth, the same tokens are scored."""
    tokenizer, template = byte_tokenizer(), gain.ForcingTemplate()
    ids = tokenizer.encode(given["response"], add_special_tokens=False)
    truths = [accepted_answers([text.removesuffix(" in a list")])[0] for text in given["answers"]]
    made = {str(gain.answer_targets(tokenizer, [1], ids, [len(ids)], truth, template)) for truth in truths}
    return len(made) == 1


def _is_cut(given: dict[str, Any]) -> bool:
    """What follows the configured mark of the thought is no episode."""
    tokenizer, response = byte_tokenizer(), given["response"]
    marks = gain.ForcingTemplate(**given["config"]["gain"]).marks
    ids = tokenizer.encode(response, add_special_tokens=False)
    ends = episodes.segment(ids, tokenizer, method="paragraphs", thinking=True, marks=marks)
    return tokenizer.decode(ids[ends[-1] :]) == response[response.index(marks.closing) :]
