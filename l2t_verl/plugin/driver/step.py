"""One training step's process rewards: rollouts → episodes → answer scores → rewards, for the rows of one batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
from verl.utils import tensordict_utils as tu
from verl.workers.utils.padding import response_from_nested, response_to_nested

from l2t_verl import compression, episodes, gain
from l2t_verl.plugin import fields, settings
from l2t_verl.plugin.driver import refusals
from l2t_verl.plugin.driver.context import StepContext
from l2t_verl.plugin.driver.estimator import CreditContext
from l2t_verl.plugin.driver.queue import fetch, padded, store, with_settings
from l2t_verl.plugin.driver.rewards import ProcessRewards

# What the worker needs of a row to score it, or to differentiate it
SCORING_FIELDS = ["prompts", "responses", "reward_model", fields.BOUNDARIES]
DERIVATIVE_FIELDS = ["prompts", "responses", "response_mask", fields.BOUNDARIES]


def process_rewards(context: StepContext, batch: KVBatchMeta) -> ProcessRewards:
    """Compute the process rewards of a batch whose log-probs are in the TransferQueue."""
    rewards = _collect(context, batch)
    if not context.fuses_scores:
        store_boundaries(batch, rewards.ends)
    _score(context, batch, rewards)
    _differentiate(context, batch, rewards)
    _combine(context, rewards)
    return rewards


def prepare_fused_scores(context: StepContext, batch: KVBatchMeta) -> None:
    """Store the boundaries before the old log-probs are computed, for the worker to score in the same forward."""
    data = fetch(batch, *_EPISODE_FIELDS)
    found = _find_episodes(context, batch, data, None)
    store_boundaries(batch, [ends for ends, _, _ in found])


def store_boundaries(batch: KVBatchMeta, ends: list[list[int]]) -> None:
    """Put b_0 = 0, b_1 … b_K beside the rows."""
    boundaries = [torch.tensor([0, *of_row], dtype=torch.int64) for of_row in ends]
    store(batch, fields.BOUNDARIES, torch.nested.as_nested_tensor(boundaries, layout=torch.jagged))


_EPISODE_FIELDS = ("response_mask", "reward_model", "extra_fields", "multi_modal_inputs")


def _find_episodes(
    context: StepContext, batch: KVBatchMeta, data: TensorDict, log_probs: torch.Tensor | None
) -> list[tuple[list[int], list[int], str | None]]:
    """For each row its episode ends, whether each states the answer, and why there are none; all but padding rows."""
    truths = fields.objects(data, "reward_model")
    infos = [_reward_info(extra) for extra in fields.objects(data, "extra_fields")]
    images = fields.objects(data, "multi_modal_inputs") if "multi_modal_inputs" in data else [None] * len(batch)
    masks = data["response_mask"].unbind()
    policy = [None] * len(batch) if log_probs is None else log_probs.unbind()
    rows: list[tuple[list[int], list[int], str | None]] = []
    for row, (key, tag) in enumerate(zip(batch.keys, batch.tags, strict=True)):
        ends: list[int] = []
        states: list[int] = []
        reason = None
        if not tag.get("is_padding", False):
            found = _row_episodes(infos[row], int(key.rsplit("_", 1)[1]))
            if not fields.accepted_answers(fields.ground_truth_of(truths[row])):
                reason = "no_ground_truth"
            elif images[row]:
                reason = "multi_modal"
            elif found is None:
                reason = "no_episode_info"
            else:
                ends, states = _final_episodes(context, found, masks[row], policy[row])
                reason = None if ends else "no_episodes"
        rows.append((ends, states, reason))
    return rows


def _collect(context: StepContext, batch: KVBatchMeta) -> ProcessRewards:
    """Fetch the rows and settle which of them have episodes."""
    wanted = ("responses", "rm_scores", "old_log_probs", "rollout_log_probs", "ref_log_prob")
    data = fetch(batch, *wanted, *_EPISODE_FIELDS)
    mask = data["response_mask"]
    actor = padded(_actor_log_probs(context, batch, data, mask))
    rollout = padded(data["rollout_log_probs"]) if "rollout_log_probs" in data else None
    stale = torch.tensor([_is_stale(tag, context.step) for tag in batch.tags])
    if rollout is None:
        policy, sampling = actor, padded(data["old_log_probs"])
    else:
        policy, sampling = (
            torch.where(stale[:, None], rollout, values) for values in (actor, padded(data["old_log_probs"]))
        )
    deltas = torch.zeros_like(policy)
    levels = None
    broken = _sampled_nan(policy, mask)
    if context.needs_reference:
        reference = padded(data["ref_log_prob"])
        broken |= _sampled_nan(reference, mask)
        if context.corrects_rounding:
            if rollout is None:
                raise RuntimeError(refusals.NO_LOG_PROBS)
            broken |= _sampled_nan(actor, mask) | _sampled_nan(rollout, mask)
            levels = (actor + reference) / 2
        deltas = compression.log_ratio_deltas(policy if levels is None else actor, reference, padded(mask))
    rewards = ProcessRewards(
        keys=list(batch.keys),
        is_padding=torch.tensor([bool(tag.get("is_padding", False)) for tag in batch.tags]),
        response_mask=padded(mask),
        responses=list(data["responses"].unbind()),
        ends=[],
        states=[],
        info=[_reward_info(extra) for extra in fields.objects(data, "extra_fields")],
        outcome=padded(data["rm_scores"]).sum(dim=-1),
        sampling_log_probs=sampling,
        stale=stale,
        deltas=deltas,
        noise=None if rollout is None else actor - rollout,
        levels=levels,
    )
    for row, (ends, states, reason) in enumerate(_find_episodes(context, batch, data, policy)):
        if reason is None and broken[row] and not rewards.is_padding[row]:
            ends, states, reason = [], [], "log_prob_not_finite"
        if reason:
            rewards.skipped[reason] += 1
        rewards.ends.append(ends)
        rewards.states.append(states)
    sessions = {key.rsplit("_", 1)[0] for key, pad in zip(batch.keys, rewards.is_padding, strict=True) if not pad}
    rewards.skipped["missing_rollout"] = max(0, context.rollouts - len(sessions))
    return rewards


def _is_stale(tag: dict[str, Any], step: int) -> bool:
    """Whether a row was sampled by older weights than those that this step began with, which are the last step's."""
    oldest = tag.get("min_global_steps")
    return oldest is not None and oldest < step - 1


def _final_episodes(
    context: StepContext, found: fields.OutputEpisodes, mask: torch.Tensor, log_probs: torch.Tensor | None
) -> tuple[list[int], list[int]]:
    """The reward manager's episodes after what only the trainer knows: log-probs and the multi-turn mask."""
    cut, ends = context.l2t.episodes, found.ends
    if cut.method == "surprise" and ends:  # the reward manager has no log-probs; it sends the end of the body
        assert log_probs is not None  # with this method no forward is shared, and they come first
        ends = episodes.surprise_ends(
            log_probs,
            ends[-1],
            surprise_threshold=cut.surprise_threshold,
            max_episodes=cut.max_episodes,
            min_episode_tokens=cut.min_episode_tokens,
        )
    kept = episodes.drop_masked(ends, mask)
    states = dict(zip(found.ends, found.states, strict=False))
    return kept, [states[end] for end in kept] if all(end in states for end in kept) else []


def _score(context: StepContext, batch: KVBatchMeta, rewards: ProcessRewards) -> None:
    """J_0 … J_K of every row with episodes: sampled already, computed with the old log-probs, or from the workers now."""
    widest = max(len(ends) for ends in rewards.ends) + 1
    rewards.scores = torch.zeros(len(rewards.ends), widest, dtype=torch.float64)
    if widest == 1:
        return
    if context.l2t.gain.kind == "monte_carlo":
        found = [_sampled_scores(rewards, row) for row in range(len(rewards.ends))]
    else:
        if not context.fuses_scores:
            request = with_settings(batch, {"l2t_gain": context.l2t.gain.model_dump()}, SCORING_FIELDS)
            context.workers.l2t_answer_scores(request)
        data = fetch(batch, fields.ANSWER_SCORES, *([fields.SCORE_GAP] if context.packs_rows else []))
        found = data[fields.ANSWER_SCORES].unbind()
        if context.packs_rows:
            rewards.score_gaps = padded(data[fields.SCORE_GAP]).flatten()
    for row, scores in enumerate(found):
        if not rewards.ends[row]:
            continue
        reason = None
        if scores is None:
            reason = "not_sampled"
        elif not torch.isfinite(scores).all():
            reason = "answer_too_long" if torch.isnan(scores).all() else "score_not_finite"
        if scores is None or reason:
            rewards.skipped[reason] += 1
            rewards.ends[row], rewards.states[row] = [], []
            continue
        rewards.scores[row, : len(scores)] = scores.double()
        rewards.scores[row, len(scores) :] = scores[-1].double()


def _sampled_scores(rewards: ProcessRewards, row: int) -> torch.Tensor | None:
    """The row's scores by sampled answers, at the boundaries that are left of the reward manager's."""
    info, output = rewards.info[row], int(rewards.keys[row].rsplit("_", 1)[1])
    episodes_of_row, of_outputs = _row_episodes(info, output), fields.decode_scores(info.get(fields.SAMPLED_SCORES))
    scores = of_outputs[output] if output < len(of_outputs) else None
    if episodes_of_row is None or scores is None:
        return None
    by_end = dict(zip([0, *episodes_of_row.ends], scores, strict=True))
    return torch.tensor([by_end[end] for end in [0, *rewards.ends[row]]], dtype=torch.float64)


def _differentiate(context: StepContext, batch: KVBatchMeta, rewards: ProcessRewards) -> None:
    """d_k of every episode from the workers, where the penalty is made of derivatives."""
    rewards.derivatives = torch.zeros_like(rewards.scores[:, 1:])
    if not context.displaces or not any(rewards.ends):
        return
    extra = {
        "temperature": context.config.actor_rollout_ref.rollout.temperature,
        "l2t_max_tokens": context.l2t.gain.max_tokens_per_micro_batch,
    }
    context.workers.l2t_derivatives(with_settings(batch, extra, DERIVATIVE_FIELDS))
    data = fetch(batch, fields.DERIVATIVES, fields.DISPLACEMENT_NORM)
    rewards.squared_displacement = float(data[fields.DISPLACEMENT_NORM].max())
    for row, found in enumerate(data[fields.DERIVATIVES].unbind()):
        count = len(rewards.ends[row])
        if not torch.isfinite(found[1 : count + 1]).all():
            rewards.skipped["log_prob_not_finite"] += 1
            rewards.ends[row], rewards.states[row] = [], []
        elif count:
            rewards.derivatives[row, :count] = found[1:]


def _combine(context: StepContext, rewards: ProcessRewards) -> None:
    """Gains, penalty and process rewards from scores and log-ratios or derivatives; 0 for what is no episode."""
    chosen = context.l2t.compression
    rewards.episode_ids = episodes.episode_ids(rewards.ends, rewards.response_mask.shape[1])
    rewards.gains = gain.fitting_gains(rewards.scores)
    width = rewards.gains.shape[1]
    live = torch.arange(width) < rewards.num_episodes[:, None]
    if chosen.estimator in compression.ESTIMATORS:
        penalty_of: Callable[..., torch.Tensor] = compression.compression_penalty
        if rewards.levels is not None and rewards.noise is not None:
            penalty_of = partial(compression.corrected_penalty, token_noise=rewards.noise, token_levels=rewards.levels)
        rewards.penalty = penalty_of(
            rewards.deltas,
            episode_ids=rewards.episode_ids,
            response_mask=rewards.response_mask,
            num_episodes=width,
            estimator=chosen.estimator,
        )
    else:
        penalty = compression.derivative_penalty(
            rewards.derivatives, damping=chosen.damping, squared_norm=rewards.squared_displacement
        )
        rewards.penalty = torch.where(live, penalty, 0.0)
    rewards.process = compression.process_rewards(rewards.gains, rewards.penalty, context.l2t.beta)
    rewards.process = torch.where(live, rewards.process, 0.0)


def _actor_log_probs(context: StepContext, batch: KVBatchMeta, data: TensorDict, mask: torch.Tensor) -> torch.Tensor:
    """The actor's own log-probs: verl's old ones, unless its bypass mode put the rollout engine's in their place."""
    if not (context.needs_reference and settings.bypasses_old_log_probs(context.config)):
        return data["old_log_probs"]
    request = with_settings(
        batch,
        {
            "calculate_entropy": False,
            "compute_loss": False,
            "no_lora_adapter": False,
            "temperature": context.config.actor_rollout_ref.rollout.temperature,
        },
    )
    context.workers.compute_log_prob(request)
    return response_from_nested(fetch(batch, "log_probs")["log_probs"], mask)


def credit_inputs(context: StepContext, rewards: ProcessRewards) -> CreditContext:
    """What the estimator needs beside verl's arguments."""
    return CreditContext(
        config=context.l2t,
        process=rewards.process,
        cost=context.l2t.beta * rewards.penalty.double(),
        episode_ids=rewards.episode_ids,
        old_log_probs=rewards.sampling_log_probs,
        is_padding=rewards.is_padding,
        sessions=np.array([key.rsplit("_", 1)[0] for key in rewards.keys], dtype=object),
        outputs=np.array([int(key.rsplit("_", 1)[1]) for key in rewards.keys]),
        length_cost=context.length_cost,
        max_length=context.config.data.max_response_length,
        norm_by_std=context.config.algorithm.get("norm_adv_by_std_in_grpo", True),
        scores=rewards.scores,
        critic_weights=context.critic_weights,
    )


def token_advantages(batch: KVBatchMeta) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, T] advantages that another estimator computed, and the response mask that goes with them."""
    data = fetch(batch, "advantages", "response_mask")
    return padded(data["advantages"]), padded(data["response_mask"])


def grpo_grad_norm(context: StepContext, batch: KVBatchMeta) -> float:
    """The gradient norm that plain GRPO would have on these rollouts."""
    data = fetch(batch, "uid", "response_mask", "rm_scores")
    advantages, _ = compute_grpo_outcome_advantage(
        padded(data["rm_scores"]),
        padded(data["response_mask"]),
        np.array(fields.objects(data, "uid"), dtype=object),
        norm_adv_by_std_in_grpo=context.config.algorithm.get("norm_adv_by_std_in_grpo", True),
    )
    nested = response_to_nested(advantages, data["response_mask"])
    store(batch, fields.GRPO_ADVANTAGES, nested)
    request = with_settings(
        batch,
        {
            "calculate_entropy": False,
            "global_batch_size": len(batch),
            "temperature": context.config.actor_rollout_ref.rollout.temperature,
        },
    )
    output = context.workers.l2t_grpo_grad_norm(request)
    return float(tu.get(output, "grad_norm"))


def _sampled_nan(log_probs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B] rows with a sampled token whose log-prob is NaN."""
    return (torch.isnan(padded(log_probs)) & (padded(mask) > 0)).any(dim=1)


def _reward_info(extra_fields: Any) -> dict[str, Any]:
    return (extra_fields or {}).get("reward_extra_info", {}) if isinstance(extra_fields, dict) else {}


def _row_episodes(info: dict[str, Any], output: int) -> fields.OutputEpisodes | None:
    if fields.EPISODES not in info:
        return None
    outputs = fields.decode_episodes(info[fields.EPISODES])
    return outputs[output] if output < len(outputs) else None
