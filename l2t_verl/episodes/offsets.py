"""Where each token ends in the response's text, from the token ids themselves.

Never by tokenising text again: a tokenizer may merge a prefix differently from how the model wrote it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

REPLACEMENT = "\ufffd"
LONGEST_CHARACTER = 8  # tokens; a UTF-8 character has at most 4 bytes, what takes longer is not going to become one


@dataclass(frozen=True)
class TokenText:
    """A response as text, with the end of each token in it.

    Attributes:
        text: the decoded response, special tokens included.
        ends: for each token, the number of characters of `text` up to and including it; non-decreasing. A token that
            holds only the first bytes of a character ends where the one before it ended.
    """

    text: str
    ends: list[int]

    def token_end(self, characters: int) -> int:
        """The number of tokens that hold the first `characters` characters; a boundary inside a token moves to its end.

        Example:
            >>> TokenText("ten tokens", [3, 4, 10]).token_end(6)
            3
        """
        return 0 if characters <= 0 else min(bisect_left(self.ends, characters) + 1, len(self.ends))


def token_text(token_ids: Sequence[int], tokenizer: Any) -> TokenText:
    """Decode a response and find where its tokens end, in linear time.

    Args:
        token_ids: T response token ids.
        tokenizer: the Hugging Face tokenizer that they belong to.

    Returns:
        The text, with the end of each of the T tokens in it, in characters.

    Example:
        >>> from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> letters = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
        >>> letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
        >>> token_text(tokenizer.encode("a é"), tokenizer)  # é is two bytes, and so two tokens
        TokenText(text='a é', ends=[1, 2, 2, 3])
    """
    pieces = _pieces_by_token(token_ids, tokenizer)
    if "".join(pieces) != _decode(tokenizer, token_ids):
        pieces = _pieces_by_window(token_ids, tokenizer)  # decoding depends on the neighbours, as in SentencePiece
    return TokenText("".join(pieces), list(accumulate(map(len, pieces))))


def _pieces_by_token(token_ids: Sequence[int], tokenizer: Any) -> list[str]:
    """Each token decoded alone; runs of tokens that hold parts of characters are decoded together."""
    alone = {token: _decode(tokenizer, [token]) for token in set(token_ids)}
    pieces: list[str] = []
    run: list[int] = []
    for token in token_ids:
        if REPLACEMENT in alone[token]:
            run.append(token)
            continue
        pieces += _pieces_by_window(run, tokenizer)
        run = []
        pieces.append(alone[token])
    return pieces + _pieces_by_window(run, tokenizer)


def _pieces_by_window(token_ids: Sequence[int], tokenizer: Any) -> list[str]:
    """What each token adds to the text, decoding a short window that starts where a character did."""
    pieces: list[str] = []
    context = start = 0  # the window is [context, i]; [context, start) is known already
    known = ""
    for i in range(len(token_ids)):
        text = _decode(tokenizer, token_ids[context : i + 1])
        waiting = text.endswith(REPLACEMENT) and i + 1 - start < LONGEST_CHARACTER and i + 1 < len(token_ids)
        if waiting or len(text) < len(known):
            pieces.append("")
            continue
        pieces.append(text[len(known) :])
        context, start = start, i + 1
        known = _decode(tokenizer, token_ids[context:start])
    return pieces


def _decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
