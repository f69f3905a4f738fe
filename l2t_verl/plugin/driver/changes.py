"""What L2T changes in verl's configuration before verl reads it."""

from __future__ import annotations

import logging

from omegaconf import DictConfig, open_dict

from l2t_verl.config import L2TConfig

logger = logging.getLogger(__name__)

SAMPLING_MANAGER = "l2t_verl.plugin.rollout.agent_loop.L2TAgentLoopManager"


def provide_agent_loop_manager(config: DictConfig, l2t: L2TConfig) -> None:
    """Let the agent loops sample answers where J is made of them."""
    if l2t.gain.kind != "monte_carlo":
        return
    agent = config.actor_rollout_ref.rollout.agent
    configured = agent.get("agent_loop_manager_class")
    if configured in (None, SAMPLING_MANAGER):
        with open_dict(agent):
            agent.agent_loop_manager_class = SAMPLING_MANAGER
    else:
        logger.warning(
            "algorithm.l2t.gain.kind=monte_carlo: agent_loop_manager_class=%s has to sample the answers itself, as %s does; "
            "rows without them count in l2t/skipped/not_sampled",
            configured,
            SAMPLING_MANAGER,
        )


def provide_log_probs(config: DictConfig) -> None:
    """Let the rollout engine return the log-probs of what it samples, which take rounding off the penalty."""
    rollout = config.actor_rollout_ref.rollout
    if not rollout.get("calculate_log_probs"):
        with open_dict(rollout):
            rollout.calculate_log_probs = True
        logger.info("l2t: actor_rollout_ref.rollout.calculate_log_probs=True, which takes rounding off the penalty")


def provide_reference_config(config: DictConfig) -> None:
    """Give the reference policy the batch size of the actor's log-probs where the configuration has none."""
    ref, rollout = config.actor_rollout_ref.ref, config.actor_rollout_ref.rollout
    with open_dict(ref):
        if ref.get("log_prob_micro_batch_size_per_gpu") is None and ref.get("log_prob_micro_batch_size") is None:
            ref.log_prob_micro_batch_size_per_gpu = rollout.log_prob_micro_batch_size_per_gpu
        if not ref.get("log_prob_use_dynamic_bsz") and rollout.get("log_prob_use_dynamic_bsz"):
            ref.log_prob_use_dynamic_bsz = True
            ref.log_prob_max_token_len_per_gpu = rollout.log_prob_max_token_len_per_gpu
