"""`segment`: one call for all segmenters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from l2t_verl.episodes.body import ANSWER_MARKERS, Body, find_body
from l2t_verl.episodes.discourse_markers import MARKERS, discourse_markers
from l2t_verl.episodes.episode_tags import episode_tags
from l2t_verl.episodes.fixed_tokens import fixed_tokens
from l2t_verl.episodes.limits import MAX_EPISODES, apply_limits
from l2t_verl.episodes.offsets import TokenText, token_text
from l2t_verl.episodes.paragraphs import paragraphs
from l2t_verl.episodes.surprise import surprise_ends
from l2t_verl.episodes.think_blocks import think_blocks
from l2t_verl.registry import NO_FALLBACKS, SEGMENTERS, register_segmenter
from l2t_verl.thought import MARKS, Marks

METHODS = SEGMENTERS


@dataclass(frozen=True)
class Uncut:
    """A response that a segmenter cuts.

    Attributes:
        response: its text, and where tokens lie in it.
        body: the reasoning, without thinking marks and the tail.
        end: where the reasoning ends, in tokens.
        log_probs: [T] of the tokens, in nats; None where nobody has them.
        settings: of our own segmenters, by the names of `segment`'s arguments.
        options: the part's own, of the model that it was registered with; None if it has none.
    """

    response: TokenText
    body: Body
    end: int
    log_probs: Sequence[float] | torch.Tensor | None
    settings: Mapping[str, Any]
    options: Any

    @property
    def text(self) -> str:
        """The response up to the end of its reasoning."""
        return self.response.text[: self.body.end]

    def to_tokens(self, cuts: Iterable[int]) -> list[int]:
        """Turn cuts in `text`, as character positions, into positions in tokens; episodes of white space alone are left out.

        Args:
            cuts: character positions, in any order.

        Returns:
            Ends of episodes in tokens, in increasing order.
        """
        return _to_tokens(sorted(cuts), self.response, self.body)


# A segmenter gives the ends of its episodes in tokens, or None where the text has none of the marks that it looks for.


@register_segmenter("episode_tags")
def _episode_tags(uncut: Uncut) -> list[int] | None:
    cuts = episode_tags(uncut.response.text, uncut.body.end)
    return None if cuts is None else uncut.to_tokens(cuts)


@register_segmenter("think_blocks")
def _think_blocks(uncut: Uncut) -> list[int] | None:
    cuts = think_blocks(uncut.body)
    return None if cuts is None else uncut.to_tokens(cuts)


@register_segmenter("paragraphs")
def _paragraphs(uncut: Uncut) -> list[int] | None:
    return uncut.to_tokens(paragraphs(uncut.response.text, uncut.body.end))


@register_segmenter("discourse_markers")
def _discourse_markers(uncut: Uncut) -> list[int] | None:
    return uncut.to_tokens(discourse_markers(uncut.response.text, uncut.body.end, uncut.settings["markers"]))


@register_segmenter("fixed_tokens")
def _fixed_tokens(uncut: Uncut) -> list[int] | None:
    return fixed_tokens(uncut.end, uncut.settings["tokens_per_episode"])


@register_segmenter("surprise")
def _surprise(uncut: Uncut) -> list[int] | None:
    tokens = len(uncut.response.ends)
    if uncut.log_probs is None or len(uncut.log_probs) != tokens:
        got = "none" if uncut.log_probs is None else f"{len(uncut.log_probs)}"
        raise ValueError(f"method='surprise' needs log_probs for each of the {tokens} tokens, got {got}")
    chosen = ("surprise_threshold", "max_episodes", "min_episode_tokens")
    return surprise_ends(uncut.log_probs, uncut.end, **{name: uncut.settings[name] for name in chosen})


def segment(
    token_ids: Sequence[int] | torch.Tensor,
    tokenizer: Any,
    *,
    method: str,
    max_episodes: int = MAX_EPISODES,
    min_episode_tokens: int = 1,
    fallback: str | None = "paragraphs",
    answer_markers: Sequence[str] = ANSWER_MARKERS,
    thinking: bool | None = None,
    markers: Sequence[str] = MARKERS,
    tokens_per_episode: int = 256,
    log_probs: Sequence[float] | torch.Tensor | None = None,
    surprise_threshold: float = 4.0,
    marks: Marks = MARKS,
    options: Mapping[str, Any] | None = None,
) -> list[int]:
    r"""Cut a response into episodes (arXiv 2505.10425, section 4.1).

    Every token of the reasoning belongs to exactly one episode. The last episode ends where the tail begins: at `</think>`,
    or at the final answer of a model that does not think. Boundaries are found in the decoded text, and one that falls
    inside a token moves to that token's end. Text between episodes joins the following one, and so does an episode that is
    only white space. Malformed text never raises; each segmenter says what becomes of it.

    Args:
        token_ids: T response token ids.
        tokenizer: the Hugging Face tokenizer that they belong to.
        method: `episode_tags` (the paper's), `think_blocks`, `paragraphs`, `discourse_markers`, `fixed_tokens`,
            `surprise`, or what `register_segmenter` has brought.
        max_episodes: most episodes; the rest joins the last.
        min_episode_tokens: shortest episode, in tokens; a shorter one joins the following, the last the one before.
        fallback: segmenter for text without the marks of `episode_tags` or `think_blocks`; None leaves it without episodes.
        answer_markers: texts that open the final answer where there are no thinking marks.
        thinking: whether the prompt has opened a thought; None decides from the text.
        markers: sentence openings, for `discourse_markers`.
        tokens_per_episode: in tokens, for `fixed_tokens`.
        log_probs: [T] log-probs of the tokens in nats, for `surprise`.
        surprise_threshold: in nats, for `surprise`.
        marks: texts that open and close a thought.
        options: of registered segmenters that have some, by their names.

    Returns:
        End positions b_1 < … < b_K in tokens, 0 < b_k ≤ T; empty if there is no episode.

    Raises:
        ValueError: an unknown method or fallback, an option out of bounds, `surprise` without log-probs.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers, decoders
        >>> from transformers import PreTrainedTokenizerFast
        >>> letters = Tokenizer(models.BPE({c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
        >>> letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
        >>> segment(tokenizer.encode("ab\n\ncd. #### 7"), tokenizer, method="paragraphs")
        [4, 8]
    """
    METHODS.check(method)
    if fallback is not None and (fallback in NO_FALLBACKS or fallback not in METHODS):
        known = ", ".join(name for name in METHODS if name not in NO_FALLBACKS)
        raise ValueError(f"unknown fallback {fallback!r}; known: {known}, or None")
    limits = {"max_episodes": max_episodes, "min_episode_tokens": min_episode_tokens}
    apply_limits([], **limits)  # checks them, also for responses that are empty
    if "fixed_tokens" in (method, fallback):
        fixed_tokens(0, tokens_per_episode)  # checks the option
    ids = [int(token) for token in (token_ids.tolist() if isinstance(token_ids, torch.Tensor) else token_ids)]
    response = token_text(ids, tokenizer)
    body = find_body(response.text, answer_markers, thinking, marks)
    end = response.token_end(body.end)
    settings = {"markers": markers, "tokens_per_episode": tokens_per_episode, "surprise_threshold": surprise_threshold}

    def cut(name: str) -> list[int] | None:
        return METHODS[name](Uncut(response, body, end, log_probs, settings | limits, (options or {}).get(name)))

    ends = cut(method)
    if ends is None and fallback is not None and fallback != method:
        ends = cut(fallback)
    if ends is None:
        return []
    return apply_limits([*(position for position in ends if 0 < position < end), end], **limits)


def _to_tokens(cuts: list[int], response: TokenText, body: Body) -> list[int]:
    """Character cuts as token positions, without episodes of nothing but white space."""
    kept, start = [], 0
    for cut in cuts:
        if response.text[start:cut].strip():
            kept.append(cut)
            start = cut
    while kept and not response.text[kept[-1] : body.end].strip():
        kept.pop()
    return [response.token_end(cut) for cut in kept]
