"""What one run of the comparison is: its arm, its seed, and everything that all arms share."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from recipes.controlled.solutions import LIMIT

Change = Literal["", "shuffled", "random_boundaries", "wrong_answer", "zero_gains", "true_labels", "length_factor"]

# Fields that came later: with their defaults a run is what it was before there was a choice
CHOSEN_SINCE = ("compute", "norm_by_std", "loss_agg_mode")

# Tokens of thinking at which an evaluation cuts it and forces the answer
BUDGETS = (0, 10, 20, 30, 40, 50, 60, 80, 100, 120)

# The task's forced answer; the same for all arms
FORCING = {"kind": "geometric", "forcing_suffix": "answer ", "think_close": "</think>", "closing": "<|im_end|>"}


@dataclass(frozen=True)
class Settings:
    """A run; two runs of the same settings are the same run.

    Attributes:
        arm: name under which it is reported.
        seed: of problems, sampling and controls; runs of one seed see the same problems whatever their arm.
        start: seed of the start that it trains.
        estimator: verl's `adv_estimator`.
        l2t: the configuration's tree `algorithm.l2t`, without what all arms share.
        change: what a control does to the process reward (`shuffled` among a response's episodes, those of
            `random_boundaries`, of a `wrong_answer`, `zero_gains`, `true_labels` in place of gains) or to the outcome
            (`length_factor`: divided by T).
        kl_in_reward: coefficient of verl's KL in the reward.
        steps: updates; 0 measures the start.
        prompts: problems in a step.
        group: rollouts of each.
        learning_rate: of AdamW, constant.
        kl_loss: coefficient of verl's KL loss (`low_var_kl`).
        limit: longest response, in tokens.
        test: test problems of the evaluation, the tiers in turn.
        split: where the evaluation's problems come from.
        quality: whether the reward's and the credit's quality under the trained policy are measured as well.
        compute: precision of every forward and backward; the weights that the optimiser moves are float32 in both.
        norm_by_std: verl's `norm_adv_by_std_in_grpo`.
        loss_agg_mode: verl's.
    """

    arm: str
    seed: int
    start: int
    estimator: Literal["grpo", "l2t"] = "grpo"
    l2t: dict[str, Any] = field(default_factory=dict)
    change: Change = ""
    kl_in_reward: float = 0.0
    steps: int = 60
    prompts: int = 8
    group: int = 8
    learning_rate: float = 2e-4
    kl_loss: float = 0.001
    limit: int = LIMIT
    test: int = 2001
    split: str = "test"
    quality: bool = False
    compute: Literal["float32", "bfloat16"] = "float32"
    norm_by_std: bool = True
    loss_agg_mode: str = "token-mean"

    @property
    def name(self) -> str:
        """Name of the run's file: the arm, the seed, and a hash of all settings."""
        named = dataclasses.asdict(self)
        for each in dataclasses.fields(self):
            if each.name in CHOSEN_SINCE and named[each.name] == each.default:
                del named[each.name]
        text = json.dumps(named, sort_keys=True)
        return f"{self.arm}-{self.seed}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
