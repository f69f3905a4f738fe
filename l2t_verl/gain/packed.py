"""The backend that shares prefixes: a response is read once, and its forced answers branch off it.

The K+1 sequences of `expanded` agree up to their boundary, so they are read as one, in which a branch's token sees the
prompt, the response up to its own boundary, and its own branch; see `l2t_verl.packing`.
"""

from __future__ import annotations

import torch

from l2t_verl.packing import Branch, PackedRow, packed_forward, why_not_packed


@torch.no_grad()
def packed_log_probs(
    model: torch.nn.Module,
    prompt: list[int],
    response: list[int],
    ends: list[int],
    suffixes: list[list[int]],
    answers: list[list[int]],
    max_tokens: int,
) -> list[torch.Tensor]:
    """Log-probs of each prefix's answer tokens, in nats; `l2t_verl.gain.answer_scores` is the way in.

    Args:
        model: a causal language model in Hugging Face's interface for which `why_not_packed` is None.
        prompt: prompt tokens.
        response: T response tokens.
        ends: b_0 = 0 < b_1 < … < b_K ≤ T, in tokens.
        suffixes: for each of the K+1 prefixes, the tokens that force an answer.
        answers: for each prefix, the A_k ≥ 1 tokens that are scored.
        max_tokens: most tokens in one forward; see `PackedRow.split`.

    Returns:
        K+1 tensors [A_k], float32 on the CPU.

    Raises:
        NotImplementedError: the model cannot share prefixes, with the reason; `expanded` can score it.
    """
    reason = why_not_packed(model)
    if reason is not None:
        raise NotImplementedError(f"backend='packed': {reason}; take 'expanded'")
    branches = [
        Branch(len(prompt) + end, suffix, answer) for end, suffix, answer in zip(ends, suffixes, answers, strict=True)
    ]
    parts = PackedRow(prompt + response[: ends[-1]], branches).split(max_tokens)
    return [values for part in parts for values in packed_forward(model, [part]).answers[0]]
