"""One policy's log-probs as training meets them: by an engine that decodes with a cache, by packed rows, by a plain forward.

Rollouts are problems of the quickstart and what the model says to them, decoded in bfloat16.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from l2t_verl.gain import ForcingTemplate, answer_target, reduce_log_probs
from l2t_verl.packing import Branch, PackedRow, packed_forward

PROBLEMS = Path(__file__).parents[2] / "recipes" / "quickstart" / "gsm8k.jsonl"
TEMPERATURE = 0.6
ROWS_AT_ONCE = 4  # of a forward


@dataclass(frozen=True)
class Problem:
    """A prompt, and the tokens that force its answer."""

    prompt: list[int]
    suffix: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Rollouts:
    """B rollouts of T tokens each in K episodes.

    Attributes:
        problems: B of them.
        responses: [B, T] token ids.
        ends: for each rollout its K episode ends, the last of them T.
        engine: [B, T] log-probs by the engine that sampled them, in nats.
    """

    problems: list[Problem]
    responses: torch.Tensor
    ends: list[list[int]]
    engine: torch.Tensor


@dataclass(frozen=True)
class Reading:
    """What a policy's packed rows give: [B, T] log-probs of its tokens in nats, [B, K+1] answer scores."""

    tokens: torch.Tensor
    scores: torch.Tensor


def problems_of(tokenizer: Any, count: int) -> list[Problem]:
    """The first problems of the quickstart's training data, in the chat template that the tokenizer brings."""
    rows = [json.loads(line) for line in PROBLEMS.read_text().splitlines()]
    template, found = ForcingTemplate(thinks=False), []
    for row in [row for row in rows if row["split"] == "train"][:count]:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["question"]}], tokenize=False, add_generation_prompt=True
        )
        answer = row["answer"].split("####")[-1].strip().replace(",", "")
        target = answer_target(tokenizer, answer, suffix=template.forcing("absent"), closing=template.closing)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        found.append(Problem(list(prompt), list(target.suffix_ids), list(target.answer_ids)))
    return found


def random_ends(rows: int, tokens: int, episodes: int) -> list[list[int]]:
    """Episodes of unequal lengths, as texts have them."""
    generator = random.Random(0)
    return [[*sorted(generator.sample(range(1, tokens), episodes - 1)), tokens] for _ in range(rows)]


@torch.no_grad()
def decode(
    model: PreTrainedModel, problems: list[Problem], tokens: int, *, said: torch.Tensor | None = None, chunk: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """The engine: all rows together, a few tokens a step, with a cache of keys and values.

    Args:
        model: the policy, in the precision that it computes in.
        problems: B prompts.
        tokens: T, of each response.
        said: [B, T] responses to read; None to sample them, one token a step.
        chunk: tokens of a step that reads.

    Returns:
        [B, T] token ids and [B, T] their log-probs in nats, float32.
    """
    generator, sampling = torch.Generator().manual_seed(0), said is None
    longest = max(len(problem.prompt) for problem in problems)
    padding = torch.tensor([longest - len(problem.prompt) for problem in problems])
    places = torch.arange(longest + tokens)
    seen = (places >= padding[:, None]).long()
    positions = (places - padding[:, None]).clamp_min(0)
    cache, found = DynamicCache(config=model.config), torch.zeros(len(problems), tokens)
    ids = torch.zeros(len(problems), tokens, dtype=torch.int64) if said is None else said

    def read(step: torch.Tensor, first: int, keep: int) -> None:
        """Read tokens, and find what the last `keep` of them say of `keep` tokens from `first` on."""
        start = cache.get_seq_length()
        output = model(
            input_ids=step,
            attention_mask=seen[:, : start + step.shape[1]],
            position_ids=positions[:, start : start + step.shape[1]],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        logs = (output.logits.float() / TEMPERATURE).log_softmax(dim=-1)
        if sampling:
            ids[:, first] = torch.multinomial(logs[:, -1].exp(), 1, generator=generator)[:, 0]
        chosen = ids[:, first : first + keep]
        found[:, first : first + keep] = logs.gather(2, chosen[:, :, None])[:, :, 0]

    read(torch.tensor([[0] * (longest - len(problem.prompt)) + problem.prompt for problem in problems]), 0, 1)
    width = 1 if sampling else chunk
    for start in range(0, tokens - 1, width):
        stop = min(start + width, tokens - 1)
        read(ids[:, start:stop], start + 1, stop - start)
    return ids, found


@torch.no_grad()
def packed(model: PreTrainedModel, rollouts: Rollouts) -> Reading:
    """The actor, as the plugin runs it: log-probs of the responses and of the answers after each episode."""
    tokens, scores = [], []
    rows = []
    for problem, response, ends in zip(rollouts.problems, rollouts.responses.tolist(), rollouts.ends, strict=True):
        branches = [Branch(len(problem.prompt) + end, problem.suffix, problem.answer) for end in [0, *ends]]
        rows.append(PackedRow(problem.prompt + response, branches, first=len(problem.prompt)))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        found = packed_forward(model, rows[start : start + ROWS_AT_ONCE], temperature=TEMPERATURE)
        tokens += found.tokens
        for answers in found.answers:
            lengths = torch.tensor([len(values) for values in answers])
            scores.append(reduce_log_probs(torch.stack(answers), lengths, kind="geometric"))
    return Reading(torch.stack(tokens), torch.stack(scores))


@torch.no_grad()
def plain(model: PreTrainedModel, rollouts: Rollouts) -> torch.Tensor:
    """[B, T] log-probs by the model's own forward of one row at a time, as verl's update computes them."""
    found = []
    for problem, response in zip(rollouts.problems, rollouts.responses, strict=True):
        ids = torch.cat([torch.tensor(problem.prompt), response])[None]
        logits = model(input_ids=ids, logits_to_keep=len(response) + 1).logits[0, :-1].float() / TEMPERATURE
        found.append(logits.log_softmax(dim=-1).gather(1, response[:, None])[:, 0])
    return torch.stack(found)
