"""The start of all arms: a small Qwen2 that learns, from scratch, to reason redundantly and to err.

python -m recipes.controlled.start --seed 1 --folder recipes/controlled/starts/1
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from recipes.controlled.sampling import prompt_ids
from recipes.controlled.solutions import LIMIT, Rates, render, solve
from recipes.controlled.task import Problem, problems
from recipes.controlled.vocabulary import make_tokenizer

# Weights of 0.02, transformers' default, are too small for this width: 500 steps then reach what 200 do here
SHAPE = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 2,
         "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": True,
         "initializer_range": 0.08}  # fmt: skip
FORCED = 0.15  # share of examples whose thinking is cut off and whose answer, the true one, is forced
STEPS, ROWS, RATE, WARM_UP = 9000, 16, 2e-3, 100


def make_model(tokenizer: Any, seed: int, **changes: Any) -> Qwen2ForCausalLM:
    """A random model for the vocabulary."""
    torch.manual_seed(seed)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **(SHAPE | ids | changes))).float()


def examples(tokenizer: Any, seed: int) -> Iterator[tuple[list[int], list[int]]]:
    """Prompts and responses without end, on training problems."""
    generator = random.Random(f"solutions/{seed}")
    yield from written(tokenizer, problems("train", seed), generator, Rates(), LIMIT)


def written(
    tokenizer: Any, source: Iterable[Problem], generator: random.Random, rates: Rates, limit: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Prompts and responses of at most `limit` tokens to these problems."""
    for problem in source:
        response = _response(tokenizer, problem, generator, rates)
        while len(response) > limit:
            response = _response(tokenizer, problem, generator, rates)
        yield prompt_ids(tokenizer, problem), response


def _response(tokenizer: Any, problem: Problem, generator: random.Random, rates: Rates) -> list[int]:
    episodes, answer = solve(problem, generator, rates)
    if generator.random() < FORCED:
        episodes, answer = episodes[: generator.randrange(len(episodes) + 1)], problem.answer
    return [*tokenizer.encode(render(episodes, answer)), tokenizer.eos_token_id]


def train(seed: int, steps: int = STEPS, rows: int = ROWS, **changes: Any) -> tuple[Qwen2ForCausalLM, Any]:
    """Supervised fine-tuning; the loss is the responses' alone."""
    tokenizer = make_tokenizer()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(tokenizer, seed, **changes).to(device)  # type: ignore[arg-type] # transformers' wrapper loses self
    fit(model, tokenizer, examples(tokenizer, seed), seed, steps, rows, RATE)
    return model, tokenizer


def fit(
    model: Qwen2ForCausalLM,
    tokenizer: Any,
    source: Iterator[tuple[list[int], list[int]]],
    seed: int,
    steps: int,
    rows: int,
    rate: float,
) -> None:
    """Supervised steps on `rows` examples each, at a cosine from `rate` to 0."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    pool: list[list[tuple[list[int], list[int]]]] = []
    order = random.Random(seed)
    started = time.time()
    for step in range(steps):
        if not pool:  # batches of neighbours in length
            drawn = sorted(itertools.islice(source, 16 * rows), key=lambda pair: len(pair[0]) + len(pair[1]))
            batches = [drawn[i : i + rows] for i in range(0, len(drawn), rows)]
            order.shuffle(batches)
            pool = batches
        loss = _loss(model, pool.pop(), tokenizer.pad_token_id)
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if (step + 1) % 100 == 0:
            seconds = time.time() - started
            print(f"start {seed}: step {step + 1} of {steps}, loss {loss.item():.3f}, {seconds:.0f} s", flush=True)


def _loss(model: Qwen2ForCausalLM, batch: list[tuple[list[int], list[int]]], pad: int) -> torch.Tensor:
    ids = [torch.tensor(prompt + response) for prompt, response in batch]
    labels = [torch.tensor([-100] * len(prompt) + response) for prompt, response in batch]
    device = next(model.parameters()).device
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad).to(device)
    targets = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100).to(device)
    with torch.autocast(device.type, torch.bfloat16):  # padding is on the right, so that causal attention needs no mask
        hidden = model.model(input_ids=padded).last_hidden_state[:, :-1]
        wanted = targets[:, 1:]
        logits = model.lm_head(hidden[wanted != -100])
    return torch.nn.functional.cross_entropy(logits.float(), wanted[wanted != -100])


def save(model: PreTrainedModel, tokenizer: Any, folder: Path, made_by: dict[str, Any]) -> None:
    """Write a model folder, which appears whole or not at all.

    Raises:
        FileExistsError: something is there already.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: take it as it is, remove it, or name another --folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        made = Path(unfinished) / folder.name
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        (made / "start.json").write_text(json.dumps(made_by))
        made.rename(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # at this size a second thread gains nothing; start another seed beside it instead
    model, tokenizer = train(arguments.seed, arguments.steps)
    save(model, tokenizer, arguments.folder, {"seed": arguments.seed, "steps": arguments.steps})


if __name__ == "__main__":
    main()
