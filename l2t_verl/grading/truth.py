"""Reference answers: which texts of a data set's cell they are, without what is around them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from l2t_verl.grading.answer import last_box

_PROGRAM = re.compile(r"^(?:(?:async )?def|class|import|from|@\w+)\b", re.MULTILINE)
_WRAPPED = re.compile(
    r"\$\$(?P<a>(?:[^$]|\\\$)+)\$\$|(?<!\\)\$(?P<b>(?:[^$\\]|\\.)+)\$|\\\[(?P<c>(?:(?!\\[\[\]]).)+)\\\]|\\\((?P<d>(?:(?!\\[()]).)+)\\\)"
    r"|<answer>(?P<e>(?:(?!</?answer>).)+)</answer>|\*\*(?P<f>[^*]+)\*\*",
    re.DOTALL,
)
_NO_TEXT = {"nan", "<na>", "nat"}


def accepted_answers(value: Any) -> list[str]:
    r"""The texts that a data set's cell accepts as the reference answer.

    Args:
        value: a text, a number, or a list or array of them. None and NaN, which data frames write for nothing, are nothing.

    Returns:
        One text for each entry, without what stands around it; empty if there is no answer.

    Example:
        >>> accepted_answers(" 72 "), accepted_answers(["1/2", "", "0.5"]), accepted_answers(None), accepted_answers(7)
        (['72'], ['1/2', '0.5'], [], ['7'])
        >>> accepted_answers(["\\boxed{98}", "\\[ 98 \\]"]), accepted_answers(float("nan")), accepted_answers("NaN")
        (['98'], [], [])
    """
    if hasattr(value, "tolist"):  # numpy's
        value = value.tolist()
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict)):
        return list(dict.fromkeys(text for item in value for text in accepted_answers(item)))
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return []
    text = str(value).strip()
    text = "" if text.lower() in _NO_TEXT else normalised_truth(text)
    return [text] if text else []


def rewritten(value: Any) -> list[tuple[str, str]]:
    r"""Find the reference answers of a cell that are read in another way than they are written.

    Args:
        value: see `accepted_answers`.

    Returns:
        Each such answer as it is written, and as it is read.

    Example:
        >>> rewritten("\\[ 98 \\]"), rewritten(["98", "$97$"]), rewritten(" 98"), rewritten(None)
        ([('\\[ 98 \\]', '98')], [('$97$', '97')], [], [])
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict)):
        return [pair for item in value for pair in rewritten(item)]
    return [(str(value), text) for text in accepted_answers(value) if text != str(value).strip()]


def normalised_truth(text: str) -> str:
    r"""Take a reference answer out of what stands around it; a whole solution is cut to its answer.

    J is the probability of this text in a box, so delimiters and boxes of its own would make J many times too small.
    Differences of spelling (units, thousands, fractions) are left to the grader's rules.

    Example:
        >>> [normalised_truth(text) for text in ("98", "\\[ 98 \\]", "\\boxed{98}", "$98$.", "\\(\\boxed{98}\\)")]
        ['98', '98', '98', '98', '98']
        >>> normalised_truth("3 + 4 = 7\n#### 7"), normalised_truth("\\$32,\\!348"), normalised_truth("-$$\\frac {7}{9}$$")
        ('7', '32,348', '-\\frac {7}{9}')
        >>> normalised_truth("$2$ or $3$"), normalised_truth("They add up. So $x=\\boxed{5}$."), normalised_truth("5!")
        ('2 or 3', '5', '5!')
        >>> normalised_truth("def f(x):\n    return x  #### x")  # a program is left as it is
        'def f(x):\n    return x  #### x'
    """
    if _PROGRAM.search(text):
        return text.strip()
    before = None
    while before != text:
        before = text
        text = unwrapped(text)
        if "####" in text:
            text = text.rpartition("####")[2].strip()
        if re.search(r"\\(?:boxed|fbox)\s*\{", text) and (box := last_box(text)):
            text = box
        text = re.sub(r"(?<=\S)[.,;]\s*$", "", text) if not re.search(r"\\[.,;]$", text) else text
    text = re.sub(r"\\!\s*", "", text).replace("\\$", "")
    return re.sub(r"(?<!\\)\$", "", text).strip()


def unwrapped(text: str) -> str:
    r"""Remove delimiters, a box or tags that enclose a whole text.

    Example:
        >>> unwrapped("\\[\n\\boxed{2, 3}\n\\]"), unwrapped("$x$ and $y$"), unwrapped("def f(x): return x")
        ('2, 3', '$x$ and $y$', 'def f(x): return x')
    """
    while True:
        text = text.strip()
        if found := _WRAPPED.fullmatch(text):
            text = next(group for group in found.groups() if group is not None)
        elif re.match(r"\\(?:boxed|fbox)\s*\{", text) and text.endswith("}") and _is_one_group(text[text.index("{") :]):
            text = text[text.index("{") + 1 : -1]
        else:
            return text


def _is_one_group(text: str) -> bool:
    """Whether the brace that opens a text closes at its end."""
    depth = 0
    for position, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0) if text[position - 1 : position] != "\\" else 0
        if depth == 0:
            return position == len(text) - 1
    return False
