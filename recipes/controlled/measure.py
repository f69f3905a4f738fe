"""What a policy writes: accuracy, tokens, and how many of them each kind of step takes.

python -m recipes.controlled.measure --model recipes/controlled/starts/1
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from l2t_verl.episodes import segment
from recipes.controlled.labels import label_episodes
from recipes.controlled.sampling import Rollout, sample
from recipes.controlled.solutions import written_answer
from recipes.controlled.task import SPLITS, TIERS, problems
from recipes.controlled.words import LABELS


def measure(rollouts: list[Rollout], tokenizer: Any) -> dict[str, dict[str, Any]]:
    """For each tier: problems, accuracy, mean tokens of a response, and mean tokens of each label's episodes in one."""
    found = {}
    for tier in dict.fromkeys(rollout.problem.tier for rollout in rollouts):
        chosen = [rollout for rollout in rollouts if rollout.problem.tier == tier]
        tokens: Counter[str] = Counter()
        for rollout in chosen:
            tokens.update(label_tokens(rollout, tokenizer))
        found[tier] = {
            "problems": len(chosen),
            "accuracy": sum(is_right(rollout, tokenizer) for rollout in chosen) / len(chosen),
            "tokens": sum(len(rollout.response) for rollout in chosen) / len(chosen),
            "tokens by label": {label: tokens[label] / len(chosen) for label in LABELS},
        }
    return found


def is_right(rollout: Rollout, tokenizer: Any) -> bool:
    """Whether the response gives the true answer."""
    text = tokenizer.decode(rollout.response).removesuffix(tokenizer.eos_token)
    answer = rollout.problem.answer
    return written_answer(text, len(answer)) == answer


def label_tokens(rollout: Rollout, tokenizer: Any) -> Counter[str]:
    """Tokens of the episodes of each label, tags included; the tail has none."""
    ends = segment(rollout.response, tokenizer, method="episode_tags", thinking=True)
    pieces = [rollout.response[start:end] for start, end in itertools.pairwise([0, *ends])]
    labels = label_episodes(rollout.problem, [tokenizer.decode(piece) for piece in pieces])
    tokens: Counter[str] = Counter()
    for label, piece in zip(labels, pieces, strict=True):
        tokens[label] += len(piece)
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--split", choices=list(SPLITS), default="validation")
    parser.add_argument("--problems", type=int, default=600, help="divided equally among the tiers")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    chosen = list(itertools.islice(problems(arguments.split, arguments.seed), arguments.problems // len(TIERS) * len(TIERS)))
    torch.manual_seed(arguments.seed)
    print(json.dumps(measure(sample(model, tokenizer, chosen, temperature=arguments.temperature), tokenizer), indent=1))


if __name__ == "__main__":
    main()
