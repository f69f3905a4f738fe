"""The advantage estimator `l2t`.

verl's estimators get the outcome, the mask and the group index only. The trainer puts the rest into a context variable
around `super()._compute_advantage`, so that KL-in-reward and rollout correction stay verl's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import register_adv_est

from l2t_verl import credit
from l2t_verl.config import L2TConfig

NAME = "l2t"


@dataclass
class CreditContext:
    """What the estimator needs beside verl's arguments, for the B rows of one batch.

    Attributes:
        config: the method's configuration.
        process: [B, K] episode rewards, padded with 0; set by the estimator where the penalty does not count.
        cost: [B, K] βC, what the penalty took off them, in units of J.
        episode_ids: [B, T] episode of each response token, −1 in the tail and the padding.
        old_log_probs: [B, T] log-probs of the sampled tokens, in nats.
        is_padding: [B] rows that verl appended to fill the batch.
        sessions: [B] agent-loop session of each row; a session's outputs share one outcome, its last output's.
        outputs: [B] number of each row's output within its session.
        length_cost: λ of the credits with a length price.
        max_length: longest response allowed, in tokens.
        norm_by_std: verl's `norm_adv_by_std_in_grpo`.
        scores: [B, K+1] J_0 … J_K, padded with the last; only `critic` and `guided` read them.
        critic_weights: of `critic` and `guided`, as earlier steps' rollouts have them; None before the first step.
        inputs: set by the estimator: what the credit was made of, without padding rows.
        outcome: [B], set by the estimator: the outcome reward (after KL, if KL is in the reward).
        response_mask: [B, T], set by the estimator: the mask after rollout correction.
        advantages: [B, T], set by the estimator.
        charged: set by the estimator: the share of rows, padding apart, whose penalty counts.
    """

    config: L2TConfig
    process: torch.Tensor
    cost: torch.Tensor
    episode_ids: torch.Tensor
    old_log_probs: torch.Tensor
    is_padding: torch.Tensor
    sessions: np.ndarray
    outputs: np.ndarray
    length_cost: float
    max_length: int
    norm_by_std: bool
    scores: torch.Tensor | None = None
    critic_weights: torch.Tensor | None = None
    inputs: credit.CreditInputs | None = None
    outcome: torch.Tensor | None = None
    response_mask: torch.Tensor | None = None
    advantages: torch.Tensor | None = None
    charged: float | None = None


_context: ContextVar[CreditContext | None] = ContextVar("l2t_credit_context", default=None)


@contextmanager
def credit_context(context: CreditContext) -> Iterator[CreditContext]:
    """Hand `context` to the estimator for the duration of the block."""
    token = _context.set(context)
    try:
        yield context
    finally:
        _context.reset(token)


@register_adv_est(NAME)
def l2t_advantages(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: np.ndarray, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Verl's hook: advantages [B, T] of the configured credit, twice (GRPO-like estimators return them as returns too).

    Raises:
        RuntimeError: used without the L2T trainer, which alone has the process rewards.
    """
    context = _context.get()
    if context is None:
        raise RuntimeError(
            "algorithm.adv_estimator=l2t needs the process rewards that the L2T trainer computes: "
            "set trainer.v1.trainer_mode=l2t_sync (and trainer.use_v1=true)"
        )
    rows = _in_session_order(context)
    outcome = token_level_rewards.sum(dim=-1)
    advantages = torch.zeros_like(token_level_rewards)
    advantages[rows] = _credit(context, outcome[rows], response_mask[rows], index[rows.numpy()], rows).to(advantages.dtype)
    context.outcome, context.response_mask, context.advantages = outcome, response_mask, advantages
    return advantages, advantages


def _in_session_order(context: CreditContext) -> torch.Tensor:
    """The rows that are no padding, each session's outputs in their order (verl's balancing may have moved them)."""
    rows = (~context.is_padding).nonzero().flatten()
    first_seen = {name: i for i, name in reversed(list(enumerate(context.sessions)))}
    return torch.tensor(
        sorted(rows.tolist(), key=lambda row: (first_seen[context.sessions[row]], context.outputs[row])), dtype=torch.int64
    )


def _credit(
    context: CreditContext, outcome: torch.Tensor, mask: torch.Tensor, index: np.ndarray, rows: torch.Tensor
) -> torch.Tensor:
    config = context.config
    inputs = credit.CreditInputs(
        outcome,
        context.process[rows],
        context.episode_ids[rows],
        mask,
        context.old_log_probs[rows],
        index,
        session=context.sessions[rows.numpy()],
        alpha=config.alpha,
        length_cost=context.length_cost,
        max_length=context.max_length,
        norm_by_std=context.norm_by_std,
        settings=config.credit,
        options=config.options.get(config.credit.method),
        scores=None if context.scores is None else context.scores[rows],
        critic_weights=context.critic_weights,
    )
    everywhere = config.compression.in_wrong_groups
    context.charged = 1.0
    if not (config.credit.method == "paper" if everywhere is None else everywhere):
        process, spared = credit.spare_wrong_groups(inputs.rollouts(), context.cost[rows])
        context.process = context.process.index_copy(0, rows, process.to(context.process))
        context.charged = 1.0 - spared.double().mean().item()
        inputs = replace(inputs, process=process)
    context.inputs = inputs
    return credit.token_advantages(config.credit.method, inputs)
