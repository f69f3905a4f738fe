"""What a trained policy does on problems that it never saw: accuracy, tokens by kind of step, accuracy against a budget."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from l2t_verl import gain
from l2t_verl.config import L2TConfig
from l2t_verl.packing import Branch, PackedRow
from recipes.controlled.measure import is_right, measure
from recipes.controlled.sampling import Rollout, sample
from recipes.controlled.scoring import forward
from recipes.controlled.settings import BUDGETS, Settings
from recipes.controlled.task import problems

FORCED = 501  # responses whose thinking is cut at the budgets


def evaluate(settings: Settings, model: torch.nn.Module, tokenizer: Any, config: L2TConfig) -> dict[str, Any]:
    """Sample a response at temperature 1 to each problem of the evaluation; the same problems for every run."""
    chosen = list(itertools.islice(problems(settings.split, 0), settings.test))
    torch.manual_seed(settings.seed)
    rollouts = sample(model, tokenizer, chosen, limit=settings.limit)
    right = torch.tensor([float(is_right(rollout, tokenizer)) for rollout in rollouts])
    return {
        "accuracy": right.mean().item(),
        "tokens": sum(len(rollout.response) for rollout in rollouts) / len(rollouts),
        "unfinished": sum(tokenizer.eos_token_id not in rollout.response for rollout in rollouts) / len(rollouts),
        "tiers": measure(rollouts, tokenizer),
        "budgets": budgets(model, tokenizer, rollouts[:FORCED], config),
    }


def budgets(model: torch.nn.Module, tokenizer: Any, rollouts: list[Rollout], config: L2TConfig) -> dict[int, float]:
    """Accuracy by tokens of thinking: what was answered within the budget counts as it is, else the answer is forced.

    The forced answer is not sampled: its probability of being right is what sampling would find on average.
    """
    template, rows = gain.ForcingTemplate.from_config(config.gain), []
    for rollout in rollouts:
        cuts = [budget for budget in BUDGETS if budget < len(rollout.response)]
        targets = gain.answer_targets(
            tokenizer, rollout.prompt, rollout.response, cuts[1:], rollout.problem.answer, template
        )
        branches = [
            Branch(len(rollout.prompt) + cut, list(target.suffix_ids), list(target.answer_ids))
            for cut, target in zip(cuts, targets, strict=True)
        ]
        rows.append(PackedRow([*rollout.prompt, *rollout.response], branches))
    total = dict.fromkeys(BUDGETS, 0.0)
    for rollout, answers in zip(rollouts, forward(model, rows).answers, strict=True):
        right = float(is_right(rollout, tokenizer))
        forced = [values.sum().exp().item() for values in answers]
        of_budgets = forced + [right] * (len(BUDGETS) - len(forced))
        for budget, value in zip(BUDGETS, of_budgets, strict=True):
            total[budget] += value / len(rollouts)
    return total
