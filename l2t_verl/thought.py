"""What of a response is thought and what is answer: one definition for segmenters, graders, evaluation and inspector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Marks:
    """The texts that open and close a thought (`gain.think_open`, `gain.think_close`, without the space around them)."""

    opening: str = "<think>"
    closing: str = "</think>"

    def __post_init__(self) -> None:
        if not self.opening or not self.closing:  # nothing would be found everywhere, again and again
            raise ValueError("a mark of the thought holds no text: name one, such as <think>")

    @classmethod
    def of(cls, opening: str, closing: str) -> Marks:
        r"""Make marks of texts that may have white space around them.

        Args:
            opening: text that opens a thought.
            closing: text that closes it.

        Example:
            >>> Marks.of("[THINK]\n", "\n[/THINK]")
            Marks(opening='[THINK]', closing='[/THINK]')
        """
        return cls(opening.strip(), closing.strip())

    def found_in(self, text: str) -> Iterator[tuple[bool, int]]:
        """Find the marks of a text, in their order.

        Args:
            text: a response or a prompt.

        Yields:
            Whether the mark closes a thought, and its position in characters.

        Example:
            >>> list(MARKS.found_in("<think>2 + 2</think> 4"))
            [(False, 0), (True, 12)]
        """
        position = 0
        while True:
            opened, closed = text.find(self.opening, position), text.find(self.closing, position)
            if opened < 0 and closed < 0:
                return
            closes = opened < 0 or 0 <= closed <= opened  # a closing mark may begin with the opening one
            start = closed if closes else opened
            yield closes, start
            position = start + len(self.closing if closes else self.opening)


MARKS = Marks()


@dataclass(frozen=True)
class Thought:
    """Where a response thinks.

    Attributes:
        closings: positions of the closing marks of its thoughts.
        is_open: whether it ends inside a thought, as a response does that was cut off.
        has_marks: whether a mark stands in the text.
    """

    closings: tuple[int, ...]
    is_open: bool
    has_marks: bool


def find_thought(text: str, marks: Marks = MARKS, opened: bool | None = None) -> Thought:
    """Find the thoughts of a response.

    A closing mark without an open thought is text.

    Args:
        text: the response, special tokens included where they are marks.
        marks: of the thought.
        opened: whether the prompt has opened a thought already; None: it has if the first mark closes one.

    Returns:
        Where its thoughts close, whether it ends inside one, and whether there are marks at all.

    Example:
        >>> find_thought("<think>2 + 2</think> 4")
        Thought(closings=(12,), is_open=False, has_marks=True)
        >>> find_thought("2 + 2", opened=True).is_open
        True
    """
    found = list(marks.found_in(text))
    is_open = opened if opened is not None else bool(found) and found[0][0]
    closings = []
    for closes, position in found:
        if closes and is_open:
            closings.append(position)
        is_open = not closes
    return Thought(tuple(closings), is_open, bool(found))


def answer_part(text: str, marks: Marks = MARKS, opened: bool | None = None) -> str | None:
    r"""The part of a response that answers: what stands after its last thought, or all of it if it does not think.

    Args:
        text: the response.
        marks: of the thought.
        opened: whether the prompt has opened a thought already; see `find_thought`.

    Returns:
        The text; None if the response ends inside its thought.

    Example:
        >>> answer_part("<think>Try \\boxed{7}. No.</think>\nThe answer is 3.")
        '\nThe answer is 3.'
        >>> answer_part("<think>Try \\boxed{7}"), answer_part("It is 3."), answer_part("It is 3.", opened=True)
        (None, 'It is 3.', None)
    """
    thought = find_thought(text, marks, opened)
    if thought.is_open:
        return None
    return text[thought.closings[-1] + len(marks.closing) :] if thought.closings else text


def opens_thought(text: str, marks: Marks = MARKS) -> bool:
    """Whether a prompt ends inside a thought.

    Args:
        text: the prompt, with what the chat template adds to it.
        marks: of the thought.

    Example:
        >>> opens_thought("assistant: <think>"), opens_thought("assistant: <think></think>")
        (True, False)
    """
    return text.rfind(marks.opening) > text.rfind(marks.closing)


def decode(token_ids: Sequence[int], tokenizer: Any, marks: Marks = MARKS) -> str:
    """Decode tokens without special ones, but keep the marks of the thought, which some tokenizers count as special.

    Args:
        token_ids: of a response.
        tokenizer: a Hugging Face tokenizer.
        marks: of the thought.

    Returns:
        The text.

    Example:
        >>> from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> letters = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
        >>> letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
        >>> _ = tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>", "<end>"]})
        >>> decode(tokenizer.encode("<think>2 + 2</think>4<end>"), tokenizer)
        '<think>2 + 2</think>4'
    """
    special = _special(tokenizer)
    kept = _of_marks(special, marks)
    if not kept.intersection(token_ids):
        return str(tokenizer.decode(list(token_ids), skip_special_tokens=True))
    ids = [token for token in token_ids if token in kept or token not in special]
    return str(tokenizer.decode(ids, skip_special_tokens=False))


def special_marks(tokenizer: Any, marks: Marks = MARKS) -> set[int]:
    """The ids of those marks that a tokenizer counts among its special tokens, so that plain decoding drops them."""
    return _of_marks(_special(tokenizer), marks)


def without_special(text: str, tokenizer: Any, marks: Marks = MARKS) -> str:
    """Remove special tokens from a text that was decoded with them, except the marks of the thought.

    Args:
        text: decoded with its special tokens.
        tokenizer: the Hugging Face tokenizer that decoded it.
        marks: of the thought.
    """
    for special in set(_special(tokenizer).values()) - {marks.opening, marks.closing}:
        text = text.replace(special, "")
    return text


def _of_marks(special: Mapping[int, str], marks: Marks) -> set[int]:
    return {token for token, text in special.items() if text in (marks.opening, marks.closing)}


def _special(tokenizer: Any) -> dict[int, str]:
    """The special tokens and their texts."""
    special = {token: str(added) for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return special | {token: str(tokenizer.convert_ids_to_tokens(token)) for token in tokenizer.all_special_ids}
