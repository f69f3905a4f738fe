"""What the dump of rollouts says of each of them."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from l2t_verl.plugin import fields
from l2t_verl.plugin.driver.context import StepContext
from l2t_verl.plugin.driver.estimator import CreditContext
from l2t_verl.plugin.driver.rewards import ProcessRewards


def rollout_records(context: StepContext, rewards: ProcessRewards, credit: CreditContext) -> dict[str, dict[str, Any]]:
    """Make the entries of the rollout dump: each rollout's episodes with text, J, gain, penalty and reward.

    Args:
        context: of the step.
        rewards: of the step's batch.
        credit: with the advantages that were computed.

    Returns:
        An entry for each rollout by its key; padding has none.
    """
    decode = lambda ids: context.tokenizer.decode(ids, skip_special_tokens=False)  # noqa: E731
    records = {}
    for row, key in enumerate(rewards.keys):
        if rewards.is_padding[row]:
            continue
        starts, scores = [0, *rewards.ends[row]], rewards.scores[row].tolist()
        tokens = rewards.responses[row]
        records[key] = {
            "outcome": rewards.outcome[row].item(),
            "grading": rewards.info[row].get(fields.GRADING),
            "answer_score_start": scores[0] if rewards.ends[row] else None,
            "answer_score_end": scores[-1] if rewards.ends[row] else None,
            "tokens": int(rewards.response_mask[row].sum()),
            "response_ids": tokens.tolist(),
            "tail": decode(tokens[starts[-1] :]),
            "mean_tail_advantage": _mean_advantage(credit, row, rewards.episode_ids[row] == -1),
            "episodes": [
                {
                    "text": decode(tokens[start:end]),
                    "start": start,
                    "end": end,
                    "answer_score": scores[k + 1],
                    "gain": rewards.gains[row, k].item(),
                    "penalty": rewards.penalty[row, k].item(),
                    "reward": rewards.process[row, k].item(),
                    "mean_advantage": _mean_advantage(credit, row, rewards.episode_ids[row] == k),
                    "states_answer": bool(rewards.states[row][k]) if rewards.states[row] else None,
                }
                for k, (start, end) in enumerate(itertools.pairwise(starts))
            ],
        }
    return records


def _mean_advantage(credit: CreditContext, row: int, where: torch.Tensor) -> float | None:
    assert credit.advantages is not None and credit.response_mask is not None  # set by the estimator, or after another's
    chosen = where & (credit.response_mask[row] > 0)
    return credit.advantages[row][chosen].mean().item() if chosen.any() else None
