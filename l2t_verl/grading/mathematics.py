"""Mathematical equality by math-verify."""

from __future__ import annotations

import re
from collections.abc import Sequence

from l2t_verl.grading.pool import Unparsable

# What stands before a final answer, the most explicit first; the last occurrence of the first that occurs counts. Something
# that math-verify reads must follow, unlike in "I hope that this answer is right".
_MARKS = tuple(re.compile(mark + r"\s*(?=[^\n]{0,200}?[\d$\\])") for mark in ("####", r"(?i:answer\s+is|answer:)"))
# A number and then words: the words may hold other numbers, and math-verify would take the last
_NUMBER_THEN_WORDS = re.compile(r"[-+]?[$€£]?\d[\d,]*(?:\.\d+)?(?:/\d+)?(?=[.,;:]?\s+(?!x\b|pi\b|sqrt\b)[A-Za-z])")
_BOX = re.compile(r"\\boxed\s*(?P<brace>\{?)")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_PERCENTAGE = re.compile(r"\s*(-?[\d.,]+)\s*\\?%\s*")
_LONGEST = 4096  # characters of an answer; a longer one is not an answer


def grade_math(response: str, ground_truth: str | Sequence[str]) -> bool:
    r"""Whether the response's final answer equals the ground truth, or one of several.

    The final answer is the last `\boxed{…}`, else what follows the last `####`, else the last "answer is"; the end of a
    response without any of these is searched, as math-verify does. A last box that is not closed is no answer.

    Raises:
        Unparsable: no answer is found in the response or in the ground truth.

    Example:
        >>> grade_math("so \\boxed{\\frac{1}{2}}", "0.5"), grade_math("#### 1,000 apples", "1000")
        (True, True)
    """
    from math_verify import parse, verify

    candidate = _final_answer(response)
    # math-verify's own limits need SIGALRM and the main thread; the process around this has one
    found = parse(candidate, parsing_timeout=None)
    truths = [ground_truth] if isinstance(ground_truth, str) else list(ground_truth)
    golds = [gold for truth in truths if (gold := _parse_truth(parse, truth))]
    if not found:
        raise Unparsable("the response states no answer that math-verify reads")
    if not golds:
        raise Unparsable("math-verify does not read the ground truth")
    return any(verify(gold, found, timeout_seconds=None) for gold in golds)


def grade_math_score(response: str, ground_truth: str | Sequence[str]) -> float:
    """`grade_math` as an outcome reward: 1 or 0."""
    return float(grade_math(response, ground_truth))


def last_box(text: str) -> str | None:
    r"""What stands in the last `\boxed{…}`; None where there is none, or where it is not closed.

    Example:
        >>> last_box("\\boxed{1}, no, \\boxed{\\frac{1}{2}}."), last_box("\\boxed{1")
        ('\\frac{1}{2}', None)
    """
    box = _last(_BOX, text)
    try:
        return _in_braces(text, box.end()) if box is not None and box["brace"] else None
    except Unparsable:
        return None


def _parse_truth(parse: object, truth: str) -> list:
    text = truth.strip()
    if "\\boxed" in text or "$" in text:
        return parse(text, parsing_timeout=None)
    return parse(_boxed(text), parsing_timeout=None) or parse(text, parsing_timeout=None)


def _final_answer(response: str) -> str:
    box = _last(_BOX, response)
    if box is not None:
        return _boxed(_in_braces(response, box.end())) if box["brace"] else response[box.start() :][:_LONGEST]
    for pattern in _MARKS:
        mark = _last(pattern, response)
        if mark is not None:
            answer = response[mark.end() :].partition("\n")[0].strip()
            number = _NUMBER_THEN_WORDS.match(answer)
            return number.group() if number else answer[:_LONGEST]
    return response[-_LONGEST:]


def _boxed(text: str) -> str:
    """An answer as math-verify reads it; of percentages it only reads the plain ones between dollar signs."""
    percentage = _PERCENTAGE.fullmatch(text)
    return f"${percentage[1]}%$" if percentage else f"\\boxed{{{text}}}"


def _last(pattern: re.Pattern, text: str) -> re.Match | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007
        pass
    return found


def _in_braces(text: str, start: int) -> str:
    """What stands before the brace that closes the one before `start`."""
    depth = 1
    for mark in _BRACES.finditer(text, start, start + _LONGEST):
        depth += {"{": 1, "}": -1}.get(mark.group(), 0)
        if depth == 0:
            return text[start : mark.start()]
    raise Unparsable("the last box is not closed, or too long for an answer")
