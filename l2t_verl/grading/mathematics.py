"""Mathematical equality by math-verify."""

from __future__ import annotations

import re
from collections.abc import Sequence

from l2t_verl.grading.pool import Unparsable

# Where a final answer stands, the most explicit first; the last occurrence of the first that occurs is graded.
_MARKED = (
    re.compile(r"####[ \t]*(?P<answer>[^\n]+)"),
    re.compile(r"(?i:answer\s+is|answer:)\s*(?P<answer>[^\n]+)"),
)
_BOXED = "\\boxed"
_LONGEST = 4096  # characters of an answer; a longer one is not an answer


def grade_math(response: str, ground_truth: str | Sequence[str]) -> bool:
    r"""Whether the response's final answer equals the ground truth, or one of several.

    The final answer is the last `\boxed{…}`, else what follows the last `####`, else the last "answer is"; a response
    without any of these is searched as a whole, as math-verify does.

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


def _parse_truth(parse: object, truth: str) -> list:
    text = truth.strip()
    if _BOXED in text or "$" in text:
        return parse(text, parsing_timeout=None)
    return parse(f"\\boxed{{{text}}}", parsing_timeout=None) or parse(text, parsing_timeout=None)


def _final_answer(response: str) -> str:
    at = response.rfind(_BOXED)
    if at >= 0:
        return response[at : at + _LONGEST]
    for pattern in _MARKED:
        found = None
        for found in pattern.finditer(response):  # noqa: B007
            pass
        if found is not None:
            return found["answer"].strip()[:_LONGEST]
    return response[-_LONGEST:]
