"""Credit for a large batch against verl's vectorised GRPO: 2,048 rollouts of up to 8,192 tokens in groups of 8."""

from __future__ import annotations

import numpy as np
import torch
from measuring import in_turn, peak_bytes

from l2t_verl import credit
from l2t_verl.credit.inputs import check_rollouts

ROWS, TOKENS, GROUP, EPISODES = 2048, 8192, 8, 30


def run(repeats: int, rows: int = ROWS, tokens: int = TOKENS) -> dict:
    """Seconds of each credit, and as multiples of GRPO's."""
    from verl.trainer.ppo.core_algos import compute_grpo_vectorized_outcome_advantage

    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(tokens // 8, tokens + 1, (rows,), generator=generator)
    mask = (torch.arange(tokens) < lengths[:, None]).long()
    outcome = (torch.rand(rows, generator=generator) < 0.5).float()
    rewards = torch.zeros(rows, tokens)
    rewards[torch.arange(rows), lengths - 1] = outcome
    index = np.repeat(np.arange(rows // GROUP), GROUP).astype(str).astype(object)
    body = (lengths[:, None] * 9 // 10).clamp_min(1)  # the last tenth is the tail
    ids = torch.where(torch.arange(tokens) < body, torch.arange(tokens) * EPISODES // body, -1)
    process = 0.1 * torch.randn(rows, EPISODES, generator=generator, dtype=torch.float64)
    scores = torch.rand(rows, EPISODES + 1, generator=generator, dtype=torch.float64)
    arguments = (outcome, process, ids, mask, -torch.rand(rows, tokens, generator=generator), index)
    calls = {
        "grpo_vectorized": lambda: compute_grpo_vectorized_outcome_advantage(rewards, mask, index),
        "shaped": lambda: credit.shaped_advantages(*arguments, alpha=0.8, max_length=tokens),
        "shaped, length_cost": lambda: credit.shaped_advantages(*arguments, alpha=0.8, max_length=tokens, length_cost=0.1),
        "episode": lambda: credit.episode_advantages(*arguments, alpha=0.8),
        "guided, length_cost": lambda: credit.guided_advantages(
            *arguments, scores=scores, alpha=0.8, max_length=tokens, length_cost=4.0
        ),
        "the critic's fit": lambda: credit.learn(credit.Critic(), check_rollouts(*arguments), scores, ridge=1.0, steps=5),
        "paper": lambda: credit.paper_advantages(*arguments, alpha=0.8),
    }
    seconds, _ = in_turn(calls, repeats, "cpu")
    return {
        "rows": rows,
        "tokens": tokens,
        "seconds": seconds,
        "ratios": {name: value / seconds["grpo_vectorized"] for name, value in seconds.items()},
        "peak bytes": {name: peak_bytes(call, "cpu") for name, call in calls.items()},
    }
