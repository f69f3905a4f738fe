"""Mathematical answers: whether what a response states is the truth."""

from __future__ import annotations

import re
from collections.abc import Sequence

from l2t_verl.grading.answer import Answer, final_answer, last_box
from l2t_verl.grading.equality import equal
from l2t_verl.grading.pool import Unparsable
from l2t_verl.grading.reading import Reading, read
from l2t_verl.grading.rules import plain_characters
from l2t_verl.grading.truth import accepted_answers
from l2t_verl.thought import MARKS, Marks

_WORD = re.compile(r"(?<![\\A-Za-z])(?!(?:and|sqrt|sin|cos|tan|log)(?![A-Za-z]))[A-Za-z]{3,}")
# Before the last number of a text: words and signs by which it is not the answer
_AFTER_NO_VALUE = re.compile(
    r"(?:\b(?:not|never|cannot|nor)(?:\s+(?:be|equal|equal to|exceed))?|n't(?:\s+be)?"
    r"|\b(?:less|more|fewer|greater|larger|smaller|other|rather)\s+than|\bat\s+(?:least|most)|\b(?:minus|negative|twice)|\bbetween\s+\S+\s+and|[<>≤≥≠≡]|\\(?:neq?|leq?|geq?|lt|gt|equiv|[pb]?mod)\b)"
    r"[\s{($]*\\?[$]?(?:\d[\d.,]*)\D*$"
)
__all__ = ["grade_math", "grade_math_score", "last_box"]


def grade_math(response: str, ground_truth: str | Sequence[str], marks: Marks = MARKS, opened: bool | None = None) -> bool:
    r"""Whether the response's final answer equals the ground truth, or one of several.

    The final answer is what `l2t_verl.grading.answer.final_answer` finds after the thought. It is compared as a whole:
    where a formula cannot be read, no part of it is taken for the answer.

    Args:
        response: the text, special tokens of the thought included.
        ground_truth: the truth, or several that are accepted.
        marks: of the thought.
        opened: whether the prompt has opened a thought, so that a response without marks was cut off in it.

    Raises:
        Unparsable: no answer is found in the response or in the ground truth, or the answer is not read as a whole.

    Example:
        >>> grade_math("so \\boxed{\\frac{1}{2}}", "0.5"), grade_math("#### 1,000 apples", "1000")
        (True, True)
        >>> grade_math("<think>Try \\boxed{7}. No.</think> The answer is 3.", "7")
        False
    """
    truths = [
        read(truth) for truth in accepted_answers([ground_truth] if isinstance(ground_truth, str) else list(ground_truth))
    ]
    answer = final_answer(response, marks, opened)
    if not any(truth.text for truth in truths):
        raise Unparsable("the ground truth is empty")
    verdicts = [_is(truth, answer) for truth in truths]
    if any(verdicts):
        return True
    if all(verdict is None for verdict in verdicts):
        raise Unparsable("the response states no answer that is read as a whole")
    return False


def grade_math_score(
    response: str, ground_truth: str | Sequence[str], marks: Marks = MARKS, opened: bool | None = None
) -> float:
    r"""The outcome reward of a mathematical answer: 1 if `grade_math` says that it is right, else 0.

    Args:
        response: the text, special tokens of the thought included.
        ground_truth: the truth, or several that are accepted.
        marks: of the thought.
        opened: whether the prompt has opened a thought.

    Raises:
        Unparsable: see `grade_math`.

    Example:
        >>> grade_math_score("so \\boxed{3}", "3"), grade_math_score("so \\boxed{4}", "3")
        (1.0, 0.0)
    """
    return float(grade_math(response, ground_truth, marks, opened))


def _is(truth: Reading, answer: Answer) -> bool | None:
    """Whether the truth is what is stated; None where nothing could be read."""
    if len(answer.texts) > 1:
        joined = equal(truth, read(", ".join(answer.texts)))
        return joined or all(equal(truth, read(text)) for text in answer.texts)
    if answer.is_whole:
        verdict = equal(truth, read(answer.texts[0]))
        # "The answer is 24!" may be excited, or a factorial
        return verdict or (equal(truth, read(answer.sentence)) if answer.sentence.endswith("!") else verdict)
    if answer.statement:
        said = read(answer.statement)
        if said.number is not None or said.is_only_option or _is_mathematics(said):
            return equal(truth, said)
    if answer.sentence:
        said = read(answer.sentence)
        verdict = equal(truth, said)
        if verdict or truth.is_only_option or truth.words is not None or _is_mathematics(said):
            return verdict
    found = _searched(answer.texts[0])
    return None if found is None else equal(truth, found)


def _is_mathematics(said: Reading) -> bool:
    """Whether a sentence is a formula or several: then nothing is taken out of it."""
    if "**" in said.text or not re.search(r"\d", said.text):  # powers of powers are read from the left there
        return False
    return not _WORD.search(said.text) and said.expression is not None


def _searched(text: str) -> Reading | None:
    """What math-verify finds in a text that is not an answer and nothing else."""
    from math_verify import parse
    from sympy import Basic, MatrixBase

    text = plain_characters(text)
    text = re.sub(r"\\?\$(?=\.?\d[\d.,]*(?![^$\n]*\$))|[£€¥₹]", "", text)
    found = next((of for of in parse(text, parsing_timeout=None) if isinstance(of, (Basic, MatrixBase))), None)
    if found is None or (found.is_number and _AFTER_NO_VALUE.search(text)):
        return None
    return Reading.of_expression(found)
