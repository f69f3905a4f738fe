"""What a step reads of the run that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig

from l2t_verl.config import L2TConfig


@dataclass(frozen=True)
class StepContext:
    """The trainer's state at one step, as far as rewards, metrics and records depend on it.

    Attributes:
        l2t: the method's configuration.
        config: verl's whole configuration.
        workers: verl's worker group of the actor, with the calls of `l2t_verl.plugin.workers.worker`.
        tokenizer: the model's.
        step: number of the step, from 1.
        length_cost: λ of this step; dual ascent moves it.
        needs_reference: whether the penalty is made of log-ratios to the reference policy.
        corrects_rounding: whether the rollout engine's log-probs take rounding off the penalty.
        displaces: whether the penalty is made of derivatives along the weights' displacement.
        packs_rows: whether a response and its forced answers share a forward; None where no answer is forced.
        fuses_scores: whether the answer scores come from the forward that gives the old log-probs.
        rollouts: that the batch should have, without padding.
        critic_weights: of credits `critic` and `guided`, as earlier steps' rollouts have them; None before the first
            step, and with other credits.
    """

    l2t: L2TConfig
    config: DictConfig
    workers: Any
    tokenizer: Any
    step: int
    length_cost: float
    needs_reference: bool
    corrects_rounding: bool
    displaces: bool
    packs_rows: bool | None
    fuses_scores: bool
    rollouts: int
    critic_weights: torch.Tensor | None = None
