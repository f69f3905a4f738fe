"""Rollouts of the policy, by transformers' own generation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from recipes.controlled.solutions import LIMIT
from recipes.controlled.task import Problem


@dataclass(frozen=True)
class Rollout:
    """One response.

    Attributes:
        problem: what was asked.
        prompt: its token ids, the opened thought included.
        response: sampled token ids, with the end mark unless it was cut off.
        log_probs: of these tokens as they were sampled, in nats; None where nobody asked.
    """

    problem: Problem
    prompt: list[int]
    response: list[int]
    log_probs: list[float] | None = None


def prompt_ids(tokenizer: Any, problem: Problem) -> list[int]:
    """A problem as the policy reads it."""
    message = [{"role": "user", "content": str(problem)}]
    return tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=False)


@torch.no_grad()
def sample(
    model: torch.nn.Module,
    tokenizer: Any,
    problems: list[Problem],
    *,
    temperature: float = 1.0,
    limit: int = LIMIT,
    rows: int = 256,
    log_probs: bool = False,
) -> list[Rollout]:
    """One response to each problem, sampled from the whole distribution; greedy at temperature 0.

    Args:
        model: the policy.
        tokenizer: its tokenizer.
        problems: repeat one to get several responses to it.
        temperature: of the sampling.
        limit: longest response, in tokens.
        rows: responses that are generated together.
        log_probs: whether they are kept; of the whole distribution, at temperature 1.
    """
    model.eval()
    generate: Any = model.generate  # of transformers' models; torch's do not declare it
    found: list[Rollout] = []
    prompts = [prompt_ids(tokenizer, problem) for problem in problems]
    options: dict[str, Any] = {"do_sample": False}
    if temperature:
        options = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    options |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    for start in range(0, len(problems), rows):
        chosen = slice(start, start + rows)
        batch = tokenizer.pad({"input_ids": prompts[chosen]}, padding_side="left", return_tensors="pt").to(model.device)
        output = generate(**batch, max_new_tokens=limit, return_dict_in_generate=True, output_logits=log_probs, **options)
        sampled = output.sequences[:, batch["input_ids"].shape[1] :]
        kept: list[Any] = [None] * len(sampled)
        if log_probs:
            levels = torch.stack(output.logits, dim=1).float().log_softmax(dim=-1)
            kept = levels.gather(2, sampled[:, :, None])[:, :, 0].tolist()
        for problem, prompt, ids, of_row in zip(problems[chosen], prompts[chosen], sampled.tolist(), kept, strict=True):
            end = ids.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in ids else len(ids)
            found.append(Rollout(problem, prompt, ids[:end], of_row[:end] if log_probs else None))
    return found
