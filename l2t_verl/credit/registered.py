"""The credits by name, all called in one way; `register_credit` puts yours beside them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from l2t_verl.credit.baselines import (
    adaptive_length_penalty_advantages,
    laser_d_advantages,
    length_penalty_advantages,
    overlong_advantages,
    truncation_advantages,
)
from l2t_verl.credit.critic import critic_advantages
from l2t_verl.credit.critic_history import Critic, learn
from l2t_verl.credit.episode import episode_advantages
from l2t_verl.credit.guided import guided_advantages
from l2t_verl.credit.inputs import Rollouts, check_rollouts
from l2t_verl.credit.paper import paper_advantages
from l2t_verl.credit.shaped import shaped_advantages
from l2t_verl.registry import CREDITS, CRITICS, register_credit


@dataclass(frozen=True)
class CreditInputs:
    """What a credit is made of, for B rollouts with T response tokens and K episodes at most.

    Attributes:
        outcome: [B] outcome rewards.
        process: [B, K] episode rewards r^prg, padded with 0, in units of J.
        episode_ids: [B, T] episode of each token, −1 in the tail and the padding.
        response_mask: [B, T] 1 for sampled tokens.
        old_log_probs: [B, T] log π_old of the sampled tokens, in nats.
        index: [B] NumPy object array, the group of each row.
        session: [B] session of each row; the rows of one are one rollout. None: each row is one.
        alpha: weight of the process reward.
        length_cost: λ, which dual ascent may move from step to step.
        max_length: longest response allowed, in tokens.
        norm_by_std: verl's `norm_adv_by_std_in_grpo`.
        settings: of our own credits: the section `credit` of the configuration.
        options: the credit's own, of the model that it was registered with; None if it has none.
        scores: [B, K+1] J_0 … J_K, padded with the last; rows without episodes have none that mean anything.
        critic_weights: of `critic` and `guided`, as earlier steps' rollouts have them; None before the first step.
    """

    outcome: torch.Tensor
    process: torch.Tensor
    episode_ids: torch.Tensor
    response_mask: torch.Tensor
    old_log_probs: torch.Tensor
    index: np.ndarray
    session: np.ndarray | None = None
    alpha: float = 0.8
    length_cost: float = 0.0
    max_length: int = 1
    norm_by_std: bool = True
    settings: Any = None
    options: Any = None
    scores: torch.Tensor | None = None
    critic_weights: torch.Tensor | None = None

    def rollouts(self) -> Rollouts:
        """The same, checked, with the sums over groups, sessions and episodes that credits are made of.

        Raises:
            ValueError: see `check_rollouts`.
        """
        return self._rollouts

    @cached_property
    def _rollouts(self) -> Rollouts:  # made in a pass over all tokens, and asked for by the calibration and by the fit
        return check_rollouts(*self._arguments, session=self.session)

    @property
    def _arguments(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray]:
        return self.outcome, self.process, self.episode_ids, self.response_mask, self.old_log_probs, self.index

    @property
    def _grouped(self) -> dict[str, Any]:
        return {
            "alpha": self.alpha,
            "length_cost": self.length_cost,
            "length_cost_for": self.settings.length_cost_for,
            "max_length": self.max_length,
            "std_floor": self.settings.std_floor,
            "norm_by_std": self.norm_by_std,
            "session": self.session,
        }

    @property
    def _bounded(self) -> dict[str, Any]:
        return {"length_share": self.settings.length_bound, "max_length": self.max_length, "session": self.session}

    @property
    def _judged(self) -> dict[str, Any]:
        if self.scores is None:
            method = self.settings.method
            raise ValueError(
                f"credit {method!r} needs the scores J_0 … J_K of each row: hand them to CreditInputs as scores"
            )
        return {
            "scores": self.scores,
            "weights": self.critic_weights,
            "decay": self.settings.critic_decay,
            "length_cost": self.length_cost,
            "length_cost_for": self.settings.length_cost_for,
            "max_length": self.max_length,
            "session": self.session,
        }


def token_advantages(method: str, inputs: CreditInputs) -> torch.Tensor:
    """[B, T] advantages of a credit by its name, 0 outside the mask.

    Raises:
        ValueError: nothing has that name; or a registered credit gives another shape.
    """
    advantages = CREDITS[CREDITS.check(method)](inputs)
    if advantages.shape != inputs.response_mask.shape:
        raise ValueError(
            f"credit {method!r} must give advantages of the mask's shape {list(inputs.response_mask.shape)}, got "
            f"{list(advantages.shape)}"
        )
    return advantages


def taught(critic: Critic, inputs: CreditInputs) -> Critic:
    """The critic with a step's rollouts in its fit, now that it has judged them; as it was where the credit has none."""
    settings = inputs.settings
    if settings.method not in CRITICS or inputs.scores is None:
        return critic
    return learn(critic, inputs.rollouts(), inputs.scores, ridge=settings.critic_ridge, steps=settings.critic_steps)


@register_credit("paper")
def _paper(inputs: CreditInputs) -> torch.Tensor:
    settings = inputs.settings
    return paper_advantages(*inputs._arguments, alpha=inputs.alpha, ratio_clip=settings.ratio_clip, session=inputs.session)


@register_credit("episode")
def _episode(inputs: CreditInputs) -> torch.Tensor:
    settings = inputs.settings
    return episode_advantages(
        *inputs._arguments, gamma=settings.gamma, surprise_weights=settings.surprise_weights, **inputs._grouped
    )


@register_credit("shaped")
def _shaped(inputs: CreditInputs) -> torch.Tensor:
    return shaped_advantages(*inputs._arguments, **inputs._grouped)


@register_credit("critic")
def _critic(inputs: CreditInputs) -> torch.Tensor:
    return critic_advantages(*inputs._arguments, **inputs._judged)


@register_credit("guided")
def _guided(inputs: CreditInputs) -> torch.Tensor:
    settings = inputs.settings
    return guided_advantages(*inputs._arguments, alpha=inputs.alpha, std_floor=settings.std_floor, **inputs._judged)


@register_credit("length_penalty")
def _length_penalty(inputs: CreditInputs) -> torch.Tensor:
    return length_penalty_advantages(
        *inputs._arguments, length_penalty=inputs.settings.length_penalty, session=inputs.session
    )


@register_credit("adaptive_length_penalty")
def _adaptive_length_penalty(inputs: CreditInputs) -> torch.Tensor:
    return adaptive_length_penalty_advantages(
        *inputs._arguments,
        length_cost=inputs.length_cost,
        max_length=inputs.max_length,
        session=inputs.session,
    )


@register_credit("overlong")
def _overlong(inputs: CreditInputs) -> torch.Tensor:
    return overlong_advantages(*inputs._arguments, norm_by_std=inputs.norm_by_std, **inputs._bounded)


@register_credit("truncation")
def _truncation(inputs: CreditInputs) -> torch.Tensor:
    return truncation_advantages(*inputs._arguments, **inputs._bounded)


@register_credit("laser_d")
def _laser_d(inputs: CreditInputs) -> torch.Tensor:
    return laser_d_advantages(*inputs._arguments, norm_by_std=inputs.norm_by_std, **inputs._bounded)
