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

    With thinking marks, the tail begins at the mark that closes the last thought. A thought that is still open, as in a
    truncated response, has no tail, and a closing mark without an open thought is ordinary text. Without marks, a response
    that is known to think has no tail; in any other the tail begins at the last answer marker (case ignored), if there is
    one.

    Args:
        text: the response.
        answer_markers: texts that announce the final answer.
        thinking: whether the prompt has already opened a thought. None: it has if the first mark closes one.
        marks: texts that open and close a thought.

    Returns:
        The body: where it ends, and where its thoughts close.

    Example:
        >>> find_body("<think>2 + 2</think> 4", ANSWER_MARKERS, None)
        Body(end=12, closings=(12,), has_thoughts=True)
        >>> find_body("2 + 2 = 4. #### 4", ANSWER_MARKERS, None).end
        11
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
    """Find the first token of the tail.

    Args:
        token_ids: T response token ids.
        tokenizer: the Hugging Face tokenizer that they belong to.
        answer_markers: see `find_body`.
        thinking: see `find_body`.
        marks: texts that open and close a thought.

    Returns:
        Its position, 0 … T; T if there is no tail.

    Example:
        >>> from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> letters = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
        >>> letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
        >>> body_end(tokenizer.encode("1 + 1. #### 2"), tokenizer)
        7
    """
    response = token_text(list(map(int, token_ids)), tokenizer)
    return response.token_end(find_body(response.text, answer_markers, thinking, marks).end)


def _last_marker(text: str, answer_markers: Sequence[str]) -> int:
    lowered = text.lower()
    if len(lowered) != len(text):  # some characters change their length in lower case
        lowered = text
    position = max((lowered.rfind(marker.lower()) for marker in answer_markers), default=-1)
    return position if position >= 0 else len(text)
