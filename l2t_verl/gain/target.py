"""The tokens that force the reference answer, and which of them are scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AnswerTarget:
    """What is appended to a prefix.

    Attributes:
        suffix_ids: unscored tokens that force an answer.
        answer_ids: scored tokens: the answer's and the first closing one.
    """

    suffix_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


def answer_target(tokenizer: Any, answer: str, *, suffix: str, closing: str) -> AnswerTarget:
    r"""Tokenise `suffix + answer + closing` together, and find the tokens that are scored.

    The texts are tokenised together because tokenizers merge characters across their borders (`{\`, `}}`). Every token that
    overlaps the answer is scored, and so is the first one that closes it; without that, `1` would score as a prefix of
    `17`. If one token holds the end of the answer and closing text, it is both.

    Args:
        tokenizer: a Hugging Face tokenizer.
        answer: the reference answer's text.
        suffix: text that forces an answer.
        closing: text that ends it, for example `}` or an end-of-turn token.

    Returns:
        The target; tokens after the scored ones are dropped.

    Raises:
        ValueError: the answer or the closing is empty.

    Example:
        >>> from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> letters = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
        >>> letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
        >>> target = answer_target(tokenizer, "17", suffix="It is ", closing=".")
        >>> tokenizer.decode(list(target.suffix_ids)), tokenizer.decode(list(target.answer_ids))
        ('It is ', '17.')
    """
    if not answer.strip():
        raise ValueError("the reference answer is empty; there is nothing to score")
    if not closing:
        raise ValueError("closing is empty; without it an answer scores as a prefix of longer ones")
    start, end = len(suffix), len(suffix) + len(answer)
    ids, spans = _spans(tokenizer, suffix + answer + closing)
    first = next(i for i, (_, right) in enumerate(spans) if right > start)
    last = next((i for i, (_, right) in enumerate(spans) if right > end), len(ids) - 1)
    return AnswerTarget(tuple(ids[:first]), tuple(ids[first : last + 1]))


def _spans(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids and their character spans; without offsets (slow tokenizers) spans come from decoded lengths."""
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(encoded["input_ids"]), [tuple(span) for span in encoded["offset_mapping"]]
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    whole = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    ends = [len(tokenizer.decode(ids[: i + 1], **whole)) for i in range(len(ids))]
    return ids, list(zip([0, *ends[:-1]], ends, strict=True))
