"""Answer scores J_0 … J_K of one response, by a backend that is chosen by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import cast

import torch

from l2t_verl.gain.expanded import expanded_log_probs
from l2t_verl.gain.kinds import check_kind, reduce_log_probs
from l2t_verl.gain.packed import packed_log_probs
from l2t_verl.packing import why_not_packed

Ids = Sequence[int] | torch.Tensor

# A backend maps (model, prompt_ids, response_ids, prefix ends b_0 … b_K, suffixes, answers, max_tokens) to the log-probs
# of each prefix's answer tokens: a list of K+1 tensors [A_k], float32 on the CPU.
BACKENDS: dict[str, Callable[..., list[torch.Tensor]]] = {
    "expanded": expanded_log_probs,
    "packed": packed_log_probs,
}


def answer_scores(
    model: torch.nn.Module,
    prompt_ids: Ids,
    response_ids: Ids,
    episode_ends: Sequence[int],
    suffix_ids: Ids | Sequence[Ids],
    answer_ids: Ids | Sequence[Ids],
    *,
    kind: str = "smoothed_logprob",
    backend: str | None = None,
    max_tokens_per_micro_batch: int = 16384,
) -> torch.Tensor:
    r"""Score the reference answer after each episode boundary (arXiv 2505.10425, Eq. 3: J_r).

    J_k reduces log π(answer_a | prompt, response_{≤ b_k}, suffix, answer_{<a}) over the answer's tokens, teacher-forced at
    temperature 1; b_0 = 0, so J_0 is the score before any thinking.

    Args:
        model: a causal language model in Hugging Face's interface; its mode and gradients are left alone.
        prompt_ids: prompt tokens, at least one.
        response_ids: T response tokens.
        episode_ends: K end positions b_1 < … < b_K ≤ T, in response tokens.
        suffix_ids: tokens that force an answer, unscored; or K+1 such sequences, one for each prefix.
        answer_ids: A ≥ 1 scored tokens; or K+1 such sequences.
        kind: what J is made of, as `gain.kind` has it by default; see `reduce_log_probs`.
        backend: how the prefixes are computed. `packed`: they share what they have in common. `expanded`: one plain
            sequence each, for any model. None (default): `packed` if the model allows it, else `expanded`.
        max_tokens_per_micro_batch: most tokens in one forward, padding included, unless one sequence alone is longer.

    Returns:
        [K+1] scores J_0 … J_K, float32 on the CPU.

    Raises:
        ValueError: unknown kind or backend, an empty prompt or answer, ends that do not increase within 0 < b ≤ T.
        NotImplementedError: `monte_carlo`, which samples (see `sampled_scores`), or a model that cannot share prefixes.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=16,
        ...                                      num_hidden_layers=1, num_attention_heads=2))
        >>> answer_scores(model, [1, 2], [3, 4, 5, 6], [2, 4], suffix_ids=[7], answer_ids=[8, 9]).shape
        torch.Size([3])
    """
    check_kind(kind)
    if backend is None:
        backend = "packed" if why_not_packed(model) is None else "expanded"
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    prompt, response = _flat(prompt_ids), _flat(response_ids)
    ends = [0, *(int(end) for end in episode_ends)]
    if any(a >= b for a, b in itertools.pairwise(ends)) or ends[-1] > len(response):
        raise ValueError(
            f"episode_ends must increase strictly within 0 < b <= {len(response)} response tokens, got {ends[1:]}"
        )
    if not prompt:
        raise ValueError("prompt_ids is empty; the first token of an answer needs a context")
    suffixes, answers = _per_prefix(suffix_ids, len(ends)), _per_prefix(answer_ids, len(ends))
    if not all(answers):
        raise ValueError("answer_ids is empty; there is nothing to score")
    log_probs = BACKENDS[backend](model, prompt, response, ends, suffixes, answers, max_tokens_per_micro_batch)
    lengths = torch.tensor([len(answer) for answer in answers])
    return reduce_log_probs(torch.nn.utils.rnn.pad_sequence(log_probs, batch_first=True), lengths, kind=kind)


def _flat(ids: Ids) -> list[int]:
    return ids.tolist() if isinstance(ids, torch.Tensor) else [int(token) for token in ids]


def _per_prefix(ids: Ids | Sequence[Ids], prefixes: int) -> list[list[int]]:
    """One sequence for each prefix, from one for all or one for each."""
    first = ids[0] if isinstance(ids, (list, tuple)) and ids else 0
    if isinstance(first, int) or (isinstance(first, torch.Tensor) and first.ndim == 0):
        return [_flat(cast(Ids, ids))] * prefixes
    if len(ids) != prefixes:
        raise ValueError(f"one sequence for each of the K+1={prefixes} prefixes is needed, got {len(ids)}")
    return [_flat(item) for item in cast("Sequence[Ids]", ids)]
