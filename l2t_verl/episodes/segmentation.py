"""`segment`: one call for all segmenters."""

from __future__ import annotations

from collections.abc import Sequence
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
from l2t_verl.thought import MARKS, Marks

METHODS = ("episode_tags", "think_blocks", "paragraphs", "discourse_markers", "fixed_tokens", "surprise")
FALLBACKS = ("think_blocks", "paragraphs", "discourse_markers", "fixed_tokens")
_TAGGED = ("episode_tags", "think_blocks")


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
) -> list[int]:
    r"""Cut a response into episodes (arXiv 2505.10425, section 4.1).

    Every token of the reasoning belongs to exactly one episode; the last episode ends where the tail (`</think>`, or the
    final answer of a model that does not think) begins. Text decides and tokens follow: a boundary inside a token moves to
    that token's end. Text between episodes joins the following one, and so does an episode of white space. Malformed text
    has a defined result, never an exception; see each segmenter.

    Args:
        token_ids: T response token ids.
        tokenizer: the Hugging Face tokenizer that they belong to.
        method: `episode_tags` (the paper's), `think_blocks`, `paragraphs`, `discourse_markers`, `fixed_tokens` or
            `surprise`.
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
    if method not in METHODS:
        raise ValueError(f"unknown segmenter {method!r}; known: {', '.join(METHODS)}")
    if fallback is not None and fallback not in FALLBACKS:
        raise ValueError(f"unknown fallback {fallback!r}; known: {', '.join(FALLBACKS)}, or None")
    limits = {"max_episodes": max_episodes, "min_episode_tokens": min_episode_tokens}
    apply_limits([], **limits)  # checks them, also for responses that are empty
    ids = [int(token) for token in (token_ids.tolist() if isinstance(token_ids, torch.Tensor) else token_ids)]
    response = token_text(ids, tokenizer)
    body = find_body(response.text, answer_markers, thinking, marks)
    end = response.token_end(body.end)
    if method == "surprise":
        if log_probs is None or len(log_probs) != len(ids):
            got = "none" if log_probs is None else f"{len(log_probs)}"
            raise ValueError(f"method='surprise' needs log_probs for each of the {len(ids)} tokens, got {got}")
        return surprise_ends(log_probs, end, surprise_threshold=surprise_threshold, **limits)
    if method == "fixed_tokens" or fallback == "fixed_tokens":
        fixed_tokens(0, tokens_per_episode)  # checks the option

    def cut(name: str) -> list[int] | None:
        if name == "episode_tags":
            cuts = episode_tags(response.text, body.end)
        elif name == "think_blocks":
            cuts = think_blocks(body)
        elif name == "paragraphs":
            cuts = paragraphs(response.text, body.end)
        elif name == "discourse_markers":
            cuts = discourse_markers(response.text, body.end, markers)
        else:
            return fixed_tokens(end, tokens_per_episode)
        return None if cuts is None else _to_tokens(cuts, response, body)

    ends = cut(method)
    if ends is None and fallback is not None and fallback != method:
        ends = cut(fallback)
    if ends is None:
        return []
    return apply_limits([*(position for position in ends if position < end), end], **limits)


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
