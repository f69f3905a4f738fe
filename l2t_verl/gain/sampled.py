"""Answer scores by sampling: the accuracy of n forced answers after each prefix (as in arXiv 2503.07572)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import torch

from l2t_verl.gain.forcing import ForcingTemplate, thinking_states


def forced_prompts(
    tokenizer: Any,
    prompt_ids: Sequence[int] | torch.Tensor,
    response_ids: Sequence[int] | torch.Tensor,
    episode_ends: Sequence[int],
    template: ForcingTemplate,
) -> list[list[int]]:
    """Make the K+1 sequences (prompt, response_{≤ b_k}, suffix) after which answers are sampled.

    Args:
        tokenizer: a Hugging Face tokenizer.
        prompt_ids: prompt tokens.
        response_ids: T response tokens.
        episode_ends: K ends b_1 < … < b_K ≤ T, in tokens.
        template: the texts that force an answer.

    Returns:
        K+1 sequences of token ids.

    Example:
        >>> from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> letters = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
        >>> letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
        >>> template = ForcingTemplate(suffix=" Answer: ", thinks=False)
        >>> first, last = forced_prompts(tokenizer, tokenizer.encode("1 + 1? "), tokenizer.encode("Two."), [4], template)
        >>> tokenizer.decode(last)
        '1 + 1? Two. Answer: '
    """
    prompt, response = (ids.tolist() if isinstance(ids, torch.Tensor) else list(ids) for ids in (prompt_ids, response_ids))
    states = thinking_states(tokenizer, prompt, response, episode_ends, template)
    suffixes = {state: tokenizer.encode(template.forcing(state), add_special_tokens=False) for state in set(states)}
    return [[*prompt, *response[:end], *suffixes[state]] for end, state in zip([0, *episode_ends], states, strict=True)]


async def sampled_scores(
    sample: Callable[[int, int], Awaitable[str]],
    grade: Callable[[list[str]], Awaitable[Sequence[float]]],
    prefixes: int,
    samples: int,
) -> list[float]:
    r"""Answer scores J_k = (1/n) Σ_i r(z_{k,i}) with z_{k,i} ~ π(· | s_k, suffix).

    This is an unbiased estimate of E_{z~π}[r(z)] (arXiv 2505.10425, appendix D.1). All answers are sampled at once, and
    each distinct text is graded once.

    Args:
        sample: the text of a response that ends in the n-th answer sampled after prefix k.
        grade: accuracies in [0, 1] of such texts.
        prefixes: K+1.
        samples: n ≥ 1.

    Returns:
        J_0 … J_K in [0, 1].

    Raises:
        ValueError: the grader gave another number of grades than it got texts.

    Example:
        >>> async def sample(k, n): return f"{k}" if n == 0 else "?"
        >>> async def grade(texts): return [float(text == "1") for text in texts]
        >>> asyncio.run(sampled_scores(sample, grade, prefixes=2, samples=2))
        [0.0, 0.5]
    """
    texts = await asyncio.gather(*(sample(k, n) for k in range(prefixes) for n in range(samples)))
    distinct = list(dict.fromkeys(texts))
    grades = await grade(distinct)
    if len(grades) != len(distinct):
        raise ValueError(f"the grader gave {len(grades)} grades for {len(distinct)} texts")
    accuracy = dict(zip(distinct, grades, strict=True))
    return [sum(accuracy[text] for text in texts[k * samples : (k + 1) * samples]) / samples for k in range(prefixes)]
