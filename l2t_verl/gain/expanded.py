"""The backend for any model: one plain sequence (prompt, prefix, suffix, answer) for each prefix."""

from __future__ import annotations

import inspect

import torch


@torch.no_grad()
def expanded_log_probs(
    model: torch.nn.Module,
    prompt: list[int],
    response: list[int],
    ends: list[int],
    suffixes: list[list[int]],
    answers: list[list[int]],
    max_tokens: int,
) -> list[torch.Tensor]:
    """Log-probs of each prefix's answer tokens, in nats; `l2t_verl.gain.answer_scores` is the way in.

    Sequences are padded on the right and batched, the longest first, so that a batch holds sequences of similar length.
    Logits are computed at the answers' positions only, if the model's forward can do that (`logits_to_keep`).

    Args:
        model: a causal language model in Hugging Face's interface.
        prompt: prompt tokens.
        response: T response tokens.
        ends: b_0 = 0 < b_1 < … < b_K ≤ T, in tokens.
        suffixes: for each of the K+1 prefixes, the tokens that force an answer.
        answers: for each prefix, the A_k ≥ 1 tokens that are scored.
        max_tokens: most tokens in one forward, padding included, unless one sequence alone is longer.

    Returns:
        K+1 tensors [A_k], float32 on the CPU.
    """
    sequences = [
        prompt + response[:end] + suffix + answer for end, suffix, answer in zip(ends, suffixes, answers, strict=True)
    ]
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    found: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
    while order:
        rows = max(1, max_tokens // len(sequences[order[0]]))
        chosen, order = order[:rows], order[rows:]
        batch = _forward(model, [sequences[i] for i in chosen], [len(answers[i]) for i in chosen])
        for i, log_probs in zip(chosen, batch, strict=True):
            found[i] = log_probs
    return found


def _forward(model: torch.nn.Module, sequences: list[list[int]], answer_lengths: list[int]) -> list[torch.Tensor]:
    device = next(model.parameters()).device
    lengths = torch.tensor([len(ids) for ids in sequences], device=device)
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids, device=device) for ids in sequences], batch_first=True)
    positions = torch.arange(ids.shape[1], device=device)
    # position t predicts token t+1: the first answer token is predicted by the one before it
    first = int(min(length - n for length, n in zip(lengths.tolist(), answer_lengths, strict=True))) - 1
    keep = {"logits_to_keep": ids.shape[1] - first} if _keeps_logits(model) else {}
    logits = model(
        input_ids=ids,
        attention_mask=(positions < lengths[:, None]).long(),
        position_ids=positions.expand_as(ids),
        use_cache=False,
        **keep,
    ).logits
    logits = logits[:, -(ids.shape[1] - first) :]
    rows = []
    for row, (length, n) in enumerate(zip(lengths.tolist(), answer_lengths, strict=True)):
        scored = logits[row, length - n - 1 - first : length - 1 - first].float().log_softmax(dim=-1)
        rows.append(scored.gather(1, ids[row, length - n : length, None]).squeeze(1).cpu())
    return rows


def _keeps_logits(model: torch.nn.Module) -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters
