"""Whether and how rounding is taken off the penalty: the settings that decide, and a batch's penalty from its log-ratios."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from l2t_verl import compression
from l2t_verl.config import L2TConfig

if TYPE_CHECKING:
    from l2t_verl.plugin.step import ProcessRewards

logger = logging.getLogger(__name__)

WITHOUT = (
    "or algorithm.l2t.beta=0; algorithm.l2t.compression.rounding_correction=False takes the penalty with its rounding, "
    "which in bfloat16 is most of it"
)
NO_LOG_PROBS = (
    "the rollouts came without rollout_log_probs, which take rounding off the penalty: let the agent loop return them, "
    + WITHOUT
)


def corrects(config: DictConfig, l2t: L2TConfig) -> bool:
    """Whether rounding is taken off the penalty: as configured, else where the actor computes below float32.

    What another engine than FSDP computes in is not known here, and taken to be bfloat16.
    """
    if l2t.beta == 0 or l2t.compression.estimator not in compression.ESTIMATORS:
        return False
    if l2t.compression.rounding_correction is not None:
        return l2t.compression.rounding_correction
    actor = config.actor_rollout_ref.actor
    precision = OmegaConf.select(actor, "fsdp_config.mixed_precision.param_dtype", default="bf16")
    return not (actor.strategy in ("fsdp", "fsdp2") and str(precision) in ("fp32", "float32", "32"))


def problems(config: DictConfig, l2t: L2TConfig) -> Iterator[str]:
    """What makes the rollout engine's log-probs those of another distribution than the actor's."""
    rollout = config.actor_rollout_ref.rollout
    whole = {"top_p": 1, "top_k": -1, "logprobs_mode": "processed_logprobs"}
    for name, value in whole.items() if corrects(config, l2t) else ():
        if rollout.get(name, value) != value:
            yield (
                f"actor_rollout_ref.rollout.{name}={rollout[name]}: the rollout engine's log-probs are then not the "
                f"actor's, and rounding cannot be told from the penalty; set it to {value}, {WITHOUT}"
            )


def provide_log_probs(config: DictConfig) -> None:
    """Let the rollout engine return the log-probs of what it samples."""
    rollout = config.actor_rollout_ref.rollout
    if not rollout.get("calculate_log_probs"):
        with open_dict(rollout):
            rollout.calculate_log_probs = True
        logger.info("l2t: actor_rollout_ref.rollout.calculate_log_probs=True, which takes rounding off the penalty")


def penalty(rewards: ProcessRewards, estimator: str) -> torch.Tensor:
    """[B, K] the penalty of a batch from its log-ratios, without rounding where the batch carries what that takes."""
    count = rewards.gains.shape[1]
    ratios, ids, mask = rewards.deltas, rewards.episode_ids, rewards.response_mask
    if rewards.levels is None or rewards.noise is None:
        return compression.compression_penalty(ratios, ids, mask, num_episodes=count, estimator=estimator)
    return compression.corrected_penalty(
        ratios, rewards.noise, rewards.levels, ids, mask, num_episodes=count, estimator=estimator
    )
