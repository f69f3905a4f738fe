"""What a sentence states: the number or the formula that is its answer, told from one that is only a part of it."""

from __future__ import annotations

import re

from l2t_verl.grading.units import OPERATORS

# What a line may begin with that is an answer: a formula between its marks, told from money as pandoc does, or a number
_HEAD = re.compile(
    r"(?P<formula>\$(?=\S)[^$\n]*?[^$\s]\$(?!\d)|\\\((?:(?!\\\)).)+\\\))"
    r"|[-+−–]?\\?[$€£]?\d[\d,]*(?:\.\d+)?(?:/\d+)?(?:\s*\\?%)?"
)
_FORMULA_GOES_ON = re.compile(r"(?:pi|sqrt|sin|cos|tan|cot|csc|log|ln|exp)\b|[A-Za-z]\b")
_WORDS = re.compile(r"(?P<words>[A-Za-z'’\s-]*)(?P<number>[\d$\\])?")
_REASONS = "because since as so which that who where while thus hence therefore given making meaning".split()  # noqa: SIM905
_GOES_ON = "by from after per each every in on with at for of is are was were".split()  # noqa: SIM905
# What a statement begins with that is no number, or another one than it holds
_NO_VALUE = re.compile(
    r"(?:not|never|less|more|greater|larger|smaller|bigger|fewer|higher|lower|at (?:least|most)|between|over|under|above|"
    r"below|up to|neither|either|twice|thrice|double|half|minus|negative|anything|any)\b",
    re.IGNORECASE,
)


def announced(line: str) -> str | None:
    r"""The answer that a line begins with; all of its sentence, where words go on with it; None if that is not told.

    Args:
        line: what follows "the answer is" or the like.

    Example:
        >>> [announced(line) for line in ("18 because 3 + 4 is 7", "12 (3 + 9)", "$3 n^2$.", "5 apples in 2 bags", "24!")]
        ['18', '12', '$3 n^2$', '5', '24']
        >>> [announced(line) for line in ("3 hours 20 minutes.", "2 over 3", "3 or more", "not 5.", "$5$ or $6$.")]
        ['3 hours 20 minutes', '2 over 3', '3 or more', 'not 5', '$5$ or $6$']
        >>> [announced(line) for line in ("3 n^2", "3 (x+1)", "3 sin x", "3 + 4 = 7", "x = 5")]
        [None, None, None, None, None]
    """
    head = _HEAD.match(line)
    if not head:
        return sentence_of(line) if _NO_VALUE.match(line) else None
    verdict = _is_all(line[head.end() :], head["formula"] is not None)
    return None if verdict is None else head[0] if verdict else sentence_of(line)


def last_statement(text: str) -> str:
    r"""What follows the last "is" of the last sentence; all of that sentence, if it has none, or if it denies something.

    Args:
        text: of a response that announces no answer.

    Example:
        >>> [last_statement(text) for text in ("We add.\nSo the rate is 4.5e14 Hz.", "Hence x = −5", "It cannot be 5.")]
        ['4.5e14 Hz', 'x = −5', 'It cannot be 5']
    """
    line = text.strip().rpartition("\n")[2].strip("*# ")
    sentence = re.split(r"(?<=[^\d\s.])[.!?]\s+(?=[A-Z])", line)[-1]
    sentence = re.sub(r"(?i)^(?:so|thus|hence|therefore|then)\b,?\s+", "", sentence)
    if not re.search(r"(?i)\b(?:not|cannot|never)\b|n't\b", sentence):
        sentence = re.split(r"(?i)\b(?:is|are|was|were|be|equals|it's|that's)\s+", sentence)[-1]
    return sentence.rstrip(".,; ")


def sentence_of(line: str) -> str:
    r"""A line to the end of its sentence, without its reasons.

    Args:
        line: the sentence, and what may follow.

    Example:
        >>> sentence_of("**Evelyn**, because she runs. Done"), sentence_of("(C)."), sentence_of("2**3")
        ('Evelyn', '(C)', '2**3')
    """
    line = re.split(
        r"(?i)(?<=[^A-Z\s])\.(?:\s|$)|[,;]?\s+(?:because|since|as|not)\s",
        re.sub(r"(?<![\w)*])\*+|\*+(?![\w(*])", "", line).strip() + " ",
        maxsplit=1,
    )[0]
    return line.strip().rstrip(".,;")


def _is_all(rest: str, is_formula: bool) -> bool | None:
    """Whether what follows a number or a formula leaves it as it is; None where it may be a formula with it."""
    if not rest.strip(" .,;:!*_"):
        return True
    if bracket := re.match(r"[.,;:!]?\s*[(\[]([^()\[\]]*)", rest):
        if re.match(r"\s*(?:or|and|mod|if|not|base)\b", bracket[1]):
            return False
        is_factor = re.search(r"[A-Za-z\\]", bracket[1]) and not re.search(r"[A-Za-z]{3}|=", bracket[1])
        return None if is_factor and not is_formula else True
    if re.match(r"\s+[—–-]\s+[A-Za-z]{2}", rest):
        return True
    words = re.match(r"(?P<stop>[.,;:!]*)\s+(?=[A-Za-z])", rest)
    if not words:
        return None
    if words["stop"]:
        return re.match(r"(?:or|and)\b", rest[words.end() :]) is None
    if not is_formula and _FORMULA_GOES_ON.match(rest, words.end()):
        return None
    return _is_counted(rest)


def _is_counted(rest: str) -> bool:
    """Whether words behind a number say what is counted, and perhaps why; none makes another value or goes with a number."""
    found = _WORDS.match(rest)
    words = found["words"].lower().split() if found else []
    for position, word in enumerate(words):
        meets_number = found is not None and found["number"] is not None and position == len(words) - 1
        if word in _REASONS:
            return True
        if word in _GOES_ON:
            return position > 0 or not meets_number  # "3 in 5" is a share
        if position and word in ("and", "or") and not meets_number:  # "5 boys and girls"
            continue
        if word in OPERATORS or meets_number:
            return False
    return True
