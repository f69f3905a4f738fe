"""Where a response states its final answer, and as what text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from l2t_verl.grading.pool import Unparsable
from l2t_verl.grading.statements import announced, last_statement, sentence_of
from l2t_verl.thought import MARKS, Marks, answer_part

ALONE = 40  # characters of a line that is an answer in words without saying so
LONGEST = 4096  # characters of an answer; a longer one is not an answer
MOST = 200  # boxes, from the end, that are looked into
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(?P<brace>\{?)")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_EMPTY = re.compile(
    r"(?i)[\s.…~\\]*(?:\\?(?:[lc]?dots|quad|square|text)?[\s{}]*(?:your |the )?(?:final )?(?:answers?|result)?[\s}.…]*)?"
)
_JOINED = re.compile(
    r"[\s$.,;&~]*(?:\\(?:quad|qquad|text|\)|\]|,|;)\s*)*\{?[\s$,;]*(?:(?:and|or)\b)?[\s$,;}]*(?:\\(?:quad|qquad|\(|\[|,|;)\s*)*"
    r"[\s$]*(?:[A-Za-z](?:_\{?\w\}?)?\s*=\s*)?[\s$]*"
)
_TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_OPEN_TAG = re.compile(r"<answer>(?!.*</answer>)", re.DOTALL | re.IGNORECASE)
# What stands before a final answer, the most explicit first; the last occurrence of the first that occurs counts. Something
# that can be read must follow, unlike in "I hope that this answer is right", and no step of a solution after "####".
_HEADING = re.compile(
    r"####+\s*\**\s*(?:(?:the\s+)?(?:final\s+)?answer\s*(?:is)?\s*:?\s*\**\s*)?(?=[^\n]*\S)", re.IGNORECASE
)
_STEP = re.compile(r"\**\s*(?:\d+\s*[.):]\s+\D|[A-Za-z]{2,}(?!\w*\{))")
_SAYS = re.compile(
    r"(?:answer|correct (?:option|choice))\**\s*(?:(?:is|=)\s*:?|:)\s*\**\s*"
    r"|\b(?:choose|select|pick)\s+(?:option|choice|answer)\s+"
    r"|^[ \t]*(?:#+[ \t]*\**|\*\*)(?:final[ \t]+)?answer\**[ \t]*\n\s*",  # a heading of its own
    re.IGNORECASE | re.MULTILINE,
)
_READABLE = re.compile(r"[^\n]{0,200}?[\d$\\]")
_NO_ANSWER = re.compile(r"(?:right|correct|wrong|above|below|as follows|the same|not|clear|that)\b", re.IGNORECASE)
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")


@dataclass(frozen=True)
class Answer:
    """The final answer of a response.

    Attributes:
        texts: what is stated; more than one where two boxes are joined by "and" or stand side by side.
        is_whole: whether it is an answer and nothing else; else it is a text in which one is searched.
        sentence: what follows "answer is", to its end, where the answer is a word; empty elsewhere.
        statement: what the last sentence says, where no answer is announced.
    """

    texts: tuple[str, ...]
    is_whole: bool
    sentence: str = ""
    statement: str = ""


def final_answer(response: str, marks: Marks = MARKS, opened: bool | None = None) -> Answer:
    r"""Find the final answer: in `<answer>` tags, else in boxes, else after `####`, else after "answer is", else at the end.

    The thought is left out. If the last box is not closed, there is no answer; if it is empty, the box before it counts.

    Args:
        response: the text.
        marks: of the thought.
        opened: whether the prompt has opened a thought; None if that is not known.

    Returns:
        The answer's texts, and whether they are the answer and nothing else.

    Raises:
        Unparsable: the response ends in its thought, says nothing after it, or its last box is cut off.

    Example:
        >>> final_answer("<think>Try \\boxed{7}. No.</think> It is \\boxed{3}.").texts
        ('3',)
        >>> final_answer("The roots are \\boxed{1} and \\boxed{-2}.").texts
        ('1', '-2')
        >>> final_answer("#### Step 2: compute\n3*4=12\nThe answer is 12.").texts
        ('12',)
    """
    text = answer_part(response, marks, opened)
    if text is None:
        raise Unparsable("the response ends inside its thought")
    if not text.strip():
        raise Unparsable("the response says nothing after its thought" if response.strip() else "the response is empty")
    return _stated(text)


def boxes(text: str) -> list[str] | None:
    r"""The content of the last box, or of the last several boxes that are joined; None if no box holds anything.

    Args:
        text: where boxes are looked for.

    Raises:
        Unparsable: the last box is not closed.

    Example:
        >>> boxes("\\boxed{1} no, \\boxed{\\frac{1}{2}}."), boxes("\\fbox{5}, so \\boxed{}"), boxes("5")
        (['\\frac{1}{2}'], ['5'], None)
    """
    found: list[tuple[int, int, str]] = []
    end = 0
    matches = list(_BOX.finditer(text))[-MOST:]
    for number, match in enumerate(matches):
        if match.start() < end:  # inside the one before
            continue
        is_last = number == len(matches) - 1
        try:
            inside, end = _in_box(text, match)
        except Unparsable:
            rest = text[match.end() :]
            if is_last and found and rest and found[-1][2].startswith(rest):  # cut off while it repeats itself
                break
            if is_last or number > len(matches) - 50:
                raise
            continue
        found.append((match.start(), end, inside))
    kept = [box for box in found if not _EMPTY.fullmatch(box[2])]
    if not kept:
        return None
    joined = [kept[-1]]
    for box in reversed(kept[:-1]):
        if not _JOINED.fullmatch(text, box[1], joined[0][0]):
            break
        joined.insert(0, box)
    return list(dict.fromkeys(inside.strip() for _, _, inside in joined))


def last_box(text: str) -> str | None:
    r"""The content of the last `\boxed{…}`; None if there is none, or if it is not closed.

    Example:
        >>> last_box("\\boxed{1}, no, \\boxed{\\frac{1}{2}}."), last_box("\\boxed{1")
        ('\\frac{1}{2}', None)
    """
    try:
        found = boxes(text)
    except Unparsable:
        return None
    return found[-1] if found else None


def _stated(text: str) -> Answer:
    tags = [tag for tag in _TAGS.findall(text) if tag.strip()]
    if tags:
        inner = tags[-1]
        try:
            found = boxes(inner)
        except Unparsable:
            found = None
        return Answer(tuple(found or [inner.strip()[:LONGEST]]), True)
    if _OPEN_TAG.search(text):
        raise Unparsable("the answer's tag is not closed")
    if found := boxes(text):
        return Answer(tuple(found), True)
    text = _CALCULATOR.sub("", text)
    for pattern in (_HEADING, _SAYS):
        if (start := _last_mark(pattern, text)) is not None:
            line = text[start:].lstrip().partition("\n")[0].strip().lstrip("*").strip()
            stated = announced(line)
            if stated is not None and len(stated) > LONGEST:
                raise Unparsable("what is announced is too long for an answer")
            return Answer((stated or line.rstrip("*")[:LONGEST],), stated is not None, sentence_of(line))
    if said := _said(text):
        return Answer((text[-LONGEST:],), False, said)
    return Answer((text[-LONGEST:],), False, _alone(text), last_statement(text)[:LONGEST])


def _last_mark(pattern: re.Pattern[str], text: str) -> int | None:
    """Where what the last mark announces begins."""
    found = None
    for mark in pattern.finditer(text):
        rest = text[mark.end() :]
        heading = pattern is _HEADING and _STEP.match(rest)
        if _READABLE.match(rest) and not heading:
            found = mark.end()
    return found


def _said(text: str) -> str:
    """The sentence after the last "answer is" or "####", where no number follows it."""
    for pattern in (_HEADING, _SAYS):
        for mark in reversed(list(pattern.finditer(text))):
            rest = text[mark.end() :]
            sentence = "" if pattern is _HEADING and _STEP.match(rest) else sentence_of(rest.lstrip().partition("\n")[0])
            if sentence and not _NO_ANSWER.match(sentence):
                return sentence
    return ""


def _alone(text: str) -> str:
    """A line that is the whole text or stands out in bold, if it is short and holds no number but that of an option."""
    line = text.strip().rpartition("\n")[2].strip()
    is_alone = line == text.strip() or re.fullmatch(r"\*\*[^*]+\*\*\.?", line)
    is_short = len(line) <= ALONE and (not re.search(r"\d", line) or re.match(r"\(?[A-J][.):]\s", line))
    return sentence_of(line) if is_alone and is_short else ""


def _in_box(text: str, match: re.Match[str]) -> tuple[str, int]:
    """What stands in a box and where the box ends; a box without braces holds one word."""
    if not match["brace"]:
        word = re.compile(r"\S{1,100}").match(text, match.end())
        return (word[0].rstrip("$.,;"), word.end()) if word else ("", match.end())
    depth, start = 1, match.end()
    for mark in _BRACES.finditer(text, start, start + LONGEST):
        depth += {"{": 1, "}": -1}.get(mark.group(), 0)
        if depth == 0:
            return text[start : mark.start()], mark.end()
    raise Unparsable("the last box is not closed, or too long for an answer")
