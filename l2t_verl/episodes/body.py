"""Where the reasoning ends and the final answer, the tail, begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from l2t_verl.episodes.offsets import token_text
from l2t_verl.thought import MARKS, Marks, find_thought

ANSWER_MARKERS = ("\\boxed", "####", "answer is")


@dataclass(frozen=True)
class Body:
    """The reasoning part of a response.

    Attributes:
        end: its length, in characters; the tail begins there.
        closings: positions of the marks that close a thought; the last is `end`, unless thinking goes on after it.
        has_thoughts: whether a thinking mark stands in the text.
    """

    end: int
    closings: tuple[int, ...]
    has_thoughts: bool


def find_body(text: str, answer_markers: Sequence[str], thinking: bool | None, marks: Marks = MARKS) -> Body:
    """Find the reasoning in a response's text.

    With thinking marks, the tail begins at the mark that closes the last thought; a thought that is still open
    (a truncated response) has no tail; a closing mark without an open thought is text. Without marks, a response that is
    known to think has no tail, any other has its tail from the last answer marker on (case ignored), if there is one.

    Args:
        text: the response.
        answer_markers: texts that announce the final answer.
        thinking: whether the prompt has opened a thought already; None: it has if the first mark closes one.
        marks: of the thought.
    """
    thought = find_thought(text, marks, thinking)
    if not thought.has_marks:
        return Body(len(text) if thought.is_open else _last_marker(text, answer_markers), (), False)
    over = thought.closings and not thought.is_open
    return Body(thought.closings[-1] if over else len(text), thought.closings, True)


def body_end(
    token_ids: Sequence[int],
    tokenizer: Any,
    *,
    answer_markers: Sequence[str] = ANSWER_MARKERS,
    thinking: bool | None = None,
    marks: Marks = MARKS,
) -> int:
    """The first token of the tail, T if there is none.

    Args:
        token_ids: T response token ids.
        tokenizer: a Hugging Face tokenizer.
        answer_markers: see `find_body`.
        thinking: see `find_body`.
        marks: of the thought.
    """
    response = token_text(list(map(int, token_ids)), tokenizer)
    return response.token_end(find_body(response.text, answer_markers, thinking, marks).end)


def _last_marker(text: str, answer_markers: Sequence[str]) -> int:
    lowered = text.lower()
    if len(lowered) != len(text):  # some characters change their length in lower case
        lowered = text
    position = max((lowered.rfind(marker.lower()) for marker in answer_markers), default=-1)
    return position if position >= 0 else len(text)
