"""Distributions of the episodes' rewards, for the backends that draw some; means alone hide what a reward does."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from l2t_verl.plugin.driver.rewards import ProcessRewards

logger = logging.getLogger(__name__)


def log_distributions(backends: Mapping[str, Any], rewards: ProcessRewards, step: int) -> None:
    """Send histograms of gain, penalty and reward over a step's episodes to TensorBoard and W&B, if verl logs to them.

    It never raises: a picture is not worth a run.

    Args:
        backends: verl's `Tracking.logger`, by name.
        rewards: of the step.
        step: its number.
    """
    try:
        for name, values in distributions(rewards).items():
            if len(values) and "tensorboard" in backends:
                backends["tensorboard"].writer.add_histogram(name, values, step)
            if len(values) and "wandb" in backends:
                wandb = backends["wandb"]
                wandb.log({name: wandb.Histogram(values.numpy())}, step=step, commit=False)
    except Exception as error:  # of two foreign libraries
        logger.warning("l2t: no histograms for step %d: %s: %s", step, type(error).__name__, error)


def distributions(rewards: ProcessRewards) -> dict[str, torch.Tensor]:
    """Finite gains, penalties and rewards of all real episodes, [N] each, by the names of their histograms."""
    rows = ~rewards.is_padding
    live = (torch.arange(rewards.gains.shape[1]) < rewards.num_episodes[:, None]) & rows[:, None]
    parts = {"fitting_gain": rewards.gains, "compression": rewards.penalty, "process_reward": rewards.process}
    found = {f"l2t/{name}/episodes": values[live].detach().float().cpu() for name, values in parts.items()}
    return {name: values[values.isfinite()] for name, values in found.items()}
