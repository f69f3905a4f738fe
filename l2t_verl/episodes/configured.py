"""`segment` as the configuration says: for training and for looking at what training would see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from l2t_verl.episodes.segmentation import segment
from l2t_verl.thought import MARKS, Marks

if TYPE_CHECKING:
    from l2t_verl.config import L2TConfig


def segment_as_configured(
    token_ids: Sequence[int],
    tokenizer: Any,
    config: L2TConfig,
    *,
    thinking: bool | None = None,
    marks: Marks = MARKS,
    log_probs: torch.Tensor | None = None,
) -> list[int]:
    """Cut a response into episodes as the configuration says: `segment` with `config.episodes` and `config.options`.

    Args:
        token_ids: T response token ids.
        tokenizer: the Hugging Face tokenizer that they belong to.
        config: of the method.
        thinking: whether the prompt has opened a thought; None decides from the text.
        marks: texts that open and close a thought.
        log_probs: [T] log-probs of the tokens in nats, for `surprise`.

    Returns:
        End positions b_1 < … < b_K in tokens, 0 < b_k ≤ T; empty if there is no episode.

    Raises:
        ValueError: `surprise` without log-probs.

    Example:
        >>> from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> letters = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
        >>> letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
        >>> from l2t_verl.config import load_config
        >>> config = load_config({"episodes": {"method": "fixed_tokens", "tokens_per_episode": 4}})
        >>> segment_as_configured(tokenizer.encode("ten tokens"), tokenizer, config)
        [4, 8, 10]
    """
    settings = config.episodes
    markers = {"markers": settings.markers, "answer_markers": settings.answer_markers}
    return segment(
        token_ids,
        tokenizer,
        method=settings.method,
        max_episodes=settings.max_episodes,
        min_episode_tokens=settings.min_episode_tokens,
        fallback=settings.fallback,
        thinking=thinking,
        marks=marks,
        tokens_per_episode=settings.tokens_per_episode,
        log_probs=log_probs,
        surprise_threshold=settings.surprise_threshold,
        options=config.options,
        **{name: value for name, value in markers.items() if value is not None},
    )
