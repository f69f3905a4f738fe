"""Where the reasoning ends and the final answer, the tail, begins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from l2t_verl.episodes.offsets import token_text

ANSWER_MARKERS = ("\\boxed", "####", "answer is")
THINK_MARKS = re.compile(r"<think>|</think>")


@dataclass(frozen=True)
class Body:
    """The reasoning part of a response.

    Attributes:
        end: its length, in characters; the tail begins there.
        closings: positions of the `</think>` that close a thought; the last is `end`, unless thinking goes on after it.
        has_thoughts: whether a thinking mark stands in the text.
    """

    end: int
    closings: tuple[int, ...]
    has_thoughts: bool


def find_body(text: str, answer_markers: Sequence[str], thinking: bool | None) -> Body:
    """Find the reasoning in a response's text.

    With thinking marks, the tail begins at the `</think>` that closes the last thought; a thought that is still open
    (a truncated response) has no tail; a `</think>` without an open thought is text. Without marks, a response that is known
    to think has no tail, any other has its tail from the last answer marker on (case ignored), if there is one.

    Args:
        text: the response.
        answer_markers: texts that announce the final answer.
        thinking: whether the prompt has opened a thought already; None: it has if the first mark closes one.
    """
    marks = [(found.group(), found.start()) for found in THINK_MARKS.finditer(text)]
    if not marks:
        return Body(len(text) if thinking else _last_marker(text, answer_markers), (), False)
    is_open = thinking if thinking is not None else marks[0][0] == "</think>"
    closings: list[int] = []
    for mark, position in marks:
        if mark == "<think>":
            is_open = True
        elif is_open:
            is_open = False
            closings.append(position)
    if is_open or not closings:
        return Body(len(text), tuple(closings), True)
    return Body(closings[-1], tuple(closings), True)


def body_end(
    token_ids: Sequence[int],
    tokenizer: Any,
    *,
    answer_markers: Sequence[str] = ANSWER_MARKERS,
    thinking: bool | None = None,
) -> int:
    """The first token of the tail, T if there is none.

    Args:
        token_ids: T response token ids.
        tokenizer: a Hugging Face tokenizer.
        answer_markers: see `find_body`.
        thinking: see `find_body`.
    """
    response = token_text(list(map(int, token_ids)), tokenizer)
    return response.token_end(find_body(response.text, answer_markers, thinking).end)


def _last_marker(text: str, answer_markers: Sequence[str]) -> int:
    lowered = text.lower()
    if len(lowered) != len(text):  # some characters change their length in lower case
        lowered = text
    position = max((lowered.rfind(marker.lower()) for marker in answer_markers), default=-1)
    return position if position >= 0 else len(text)
