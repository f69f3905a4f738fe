"""One training step's process rewards: rollouts → episodes → answer scores → rewards, for the rows of one batch."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
from verl.utils import tensordict_utils as tu
from verl.workers.utils.padding import response_from_nested, response_to_nested

from l2t_verl import compression, episodes, gain
from l2t_verl.plugin import fields
from l2t_verl.plugin.estimator import CreditContext

if TYPE_CHECKING:
    from l2t_verl.plugin.trainer import L2TMixin

# What the worker needs of a row to score it
SCORING_FIELDS = ["prompts", "responses", "input_ids", "reward_model", fields.BOUNDARIES]


# Why a row has no process reward, or is not there at all
SKIP_REASONS = (
    "no_ground_truth",
    "no_episodes",
    "no_episode_info",
    "answer_too_long",
    "score_not_finite",
    "log_prob_not_finite",
    "multi_modal",
    "missing_rollout",
)


@dataclass
class ProcessRewards:
    """Everything the method knows about the B rows of a batch, K episodes at most and T response tokens at most.

    Attributes:
        keys: the rows' keys in the TransferQueue.
        is_padding: [B] rows that verl appended to fill the batch; they take part in nothing.
        response_mask: [B, T] 1 for sampled tokens.
        responses: the rows' response ids, unpadded.
        ends: each row's episode ends; empty for rows without a process reward.
        states: for each row and episode, whether its text states the answer; empty where not known.
        info: each row's extra info from the reward manager.
        outcome: [B] the outcome reward before any KL.
        scores: [B, K+1] J_0 … J_K, padded with the last.
        gains: [B, K] fitting gains, padded with 0.
        penalty: [B, K] compression penalty in nats, padded with 0.
        process: [B, K] g − βC.
        episode_ids: [B, T] episode of each token, −1 in the tail and the padding.
        old_log_probs: [B, T] log-probs of the policy that the advantages are for, in nats.
        deltas: [B, T] log-ratio of that policy to the reference, in nats; zeros without a penalty.
        noise: [B, T] difference between the actor's and the rollout engine's log-probs of the same tokens, in nats: both
            have the same weights, so it is rounding; None where the engine gave none.
        skipped: rows without a process reward, by reason; under `missing_rollout`, rollouts that never arrived.
    """

    keys: list[str]
    is_padding: torch.Tensor
    response_mask: torch.Tensor
    responses: list[torch.Tensor]
    ends: list[list[int]]
    states: list[list[int]]
    info: list[dict[str, Any]]
    outcome: torch.Tensor
    old_log_probs: torch.Tensor
    deltas: torch.Tensor
    noise: torch.Tensor | None = None
    skipped: Counter = field(default_factory=lambda: Counter(dict.fromkeys(SKIP_REASONS, 0)))
    scores: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 1))
    gains: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    penalty: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    process: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    episode_ids: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))

    @property
    def num_episodes(self) -> torch.Tensor:
        """[B] episodes of each row."""
        return torch.tensor([len(ends) for ends in self.ends], dtype=torch.int64)

    def mean_correct_tokens(self) -> float | None:
        """Mean length of the correct rollouts (all their outputs together), in tokens; None if there is none."""
        correct = ((self.outcome > 0) & ~self.is_padding).nonzero().flatten().tolist()
        rollouts = {self.keys[row].rsplit("_", 1)[0] for row in correct}
        return self.response_mask[correct].sum().item() / len(rollouts) if rollouts else None

    def credit_context(self, trainer: L2TMixin) -> CreditContext:
        """What the estimator needs beside verl's arguments."""
        return CreditContext(
            config=trainer.l2t,
            process=self.process,
            episode_ids=self.episode_ids,
            old_log_probs=self.old_log_probs,
            is_padding=self.is_padding,
            sessions=np.array([key.rsplit("_", 1)[0] for key in self.keys], dtype=object),
            outputs=np.array([int(key.rsplit("_", 1)[1]) for key in self.keys]),
            length_cost=trainer.length_cost,
            max_length=trainer.config.data.max_response_length,
            norm_by_std=trainer.config.algorithm.get("norm_adv_by_std_in_grpo", True),
        )


def process_rewards(trainer: L2TMixin, batch: KVBatchMeta) -> ProcessRewards:
    """Compute the process rewards of a batch whose log-probs are in the TransferQueue."""
    rewards, answers = _collect(trainer, batch)
    _score(trainer, batch, rewards, answers)
    _combine(trainer, rewards)
    return rewards


def _collect(trainer: L2TMixin, batch: KVBatchMeta) -> tuple[ProcessRewards, list[list[str]]]:
    """Fetch the rows and settle which of them have episodes."""
    wanted = ("responses", "response_mask", "rm_scores", "old_log_probs", "rollout_log_probs", "ref_log_prob")
    data = _fetch(batch, *wanted, "reward_model", "extra_fields", "multi_modal_inputs")
    mask = data["response_mask"]
    policy = _policy_log_probs(trainer, batch, data, mask)
    deltas = torch.zeros_like(_padded(policy))
    broken = _sampled_nan(policy, mask)
    if trainer.needs_reference:
        broken |= _sampled_nan(data["ref_log_prob"], mask)
        deltas = compression.log_ratio_deltas(_padded(policy), _padded(data["ref_log_prob"]), _padded(mask))
    rewards = ProcessRewards(
        keys=list(batch.keys),
        is_padding=torch.tensor([bool(tag.get("is_padding", False)) for tag in batch.tags]),
        response_mask=_padded(mask),
        responses=list(data["responses"].unbind()),
        ends=[],
        states=[],
        info=[_reward_info(extra) for extra in fields.objects(data, "extra_fields")],
        outcome=_padded(data["rm_scores"]).sum(dim=-1),
        old_log_probs=_padded(data["old_log_probs"]),
        deltas=deltas,
        noise=_padded(policy) - _padded(data["rollout_log_probs"]) if "rollout_log_probs" in data else None,
    )
    answers = [fields.accepted_answers(fields.ground_truth_of(item)) for item in fields.objects(data, "reward_model")]
    images = fields.objects(data, "multi_modal_inputs") if "multi_modal_inputs" in data else [None] * len(batch)
    masks = mask.unbind()
    for row, key in enumerate(batch.keys):
        ends, states, reason = [], [], None
        if not rewards.is_padding[row]:
            found = _row_episodes(rewards.info[row], int(key.rsplit("_", 1)[1]))
            if not answers[row]:
                reason = "no_ground_truth"
            elif images[row]:
                reason = "multi_modal"
            elif broken[row]:
                reason = "log_prob_not_finite"
            elif found is None:
                reason = "no_episode_info"
            else:
                ends, states = _final_episodes(trainer, found, masks[row], policy.unbind()[row])
                reason = None if ends else "no_episodes"
        if reason:
            rewards.skipped[reason] += 1
        rewards.ends.append(ends)
        rewards.states.append(states)
    expected = trainer.config.data.train_batch_size // trainer.parameter_sync_step
    expected *= trainer.config.actor_rollout_ref.rollout.n
    sessions = {key.rsplit("_", 1)[0] for key, pad in zip(batch.keys, rewards.is_padding, strict=True) if not pad}
    rewards.skipped["missing_rollout"] = max(0, expected - len(sessions))
    return rewards, answers


def _final_episodes(
    trainer: L2TMixin, found: fields.OutputEpisodes, mask: torch.Tensor, log_probs: torch.Tensor
) -> tuple[list[int], list[int]]:
    """The reward manager's episodes after what only the trainer knows: log-probs and the multi-turn mask."""
    settings, ends = trainer.l2t.episodes, found.ends
    if settings.method == "surprise" and ends:  # the reward manager has no log-probs; it sends the end of the body
        ends = episodes.surprise_ends(
            log_probs,
            ends[-1],
            surprise_threshold=settings.surprise_threshold,
            max_episodes=settings.max_episodes,
            min_episode_tokens=settings.min_episode_tokens,
        )
    kept = episodes.drop_masked(ends, mask)
    states = dict(zip(found.ends, found.states, strict=False))
    return kept, [states[end] for end in kept] if all(end in states for end in kept) else []


def _score(trainer: L2TMixin, batch: KVBatchMeta, rewards: ProcessRewards, answers: list[list[str]]) -> None:
    """Ask the actor's workers for J_0 … J_K of every row with episodes."""
    boundaries = [torch.tensor([0, *ends], dtype=torch.int64) for ends in rewards.ends]
    widest = max(len(row) for row in boundaries)
    rewards.scores = torch.zeros(len(boundaries), widest, dtype=torch.float64)
    if widest == 1:
        return
    nested = torch.nested.as_nested_tensor(boundaries, layout=torch.jagged)
    _store(batch, fields.BOUNDARIES, nested)
    request = _request(batch, {"l2t_gain": trainer.l2t.gain.model_dump()}, SCORING_FIELDS)
    trainer.actor_rollout_wg.l2t_answer_scores(request)
    for row, scores in enumerate(_fetch(batch, fields.ANSWER_SCORES)[fields.ANSWER_SCORES].unbind()):
        if not rewards.ends[row]:
            continue
        if not torch.isfinite(scores).all():
            rewards.skipped["answer_too_long" if torch.isnan(scores).all() else "score_not_finite"] += 1
            rewards.ends[row], rewards.states[row] = [], []
            continue
        rewards.scores[row, : len(scores)] = scores.double()
        rewards.scores[row, len(scores) :] = scores[-1].double()


def _combine(trainer: L2TMixin, rewards: ProcessRewards) -> None:
    """Gains, penalty and process rewards from scores and log-ratios."""
    rewards.episode_ids = episodes.episode_ids(rewards.ends, rewards.response_mask.shape[1])
    rewards.gains = gain.fitting_gains(rewards.scores)
    width = rewards.gains.shape[1]
    rewards.penalty = compression.compression_penalty(
        rewards.deltas,
        rewards.episode_ids,
        rewards.response_mask,
        num_episodes=width,
        estimator=trainer.l2t.compression.estimator,
    )
    rewards.process = compression.process_rewards(rewards.gains, rewards.penalty, trainer.l2t.beta)
    rewards.process = rewards.process * (torch.arange(width) < rewards.num_episodes[:, None])


def _policy_log_probs(trainer: L2TMixin, batch: KVBatchMeta, data: TensorDict, mask: torch.Tensor) -> torch.Tensor:
    """The actor's own log-probs: verl's old ones, unless its bypass mode put the rollout engine's in their place."""
    correction = trainer.config.algorithm.get("rollout_correction", None)
    if not (trainer.needs_reference and correction and correction.get("bypass_mode", False)):
        return data["old_log_probs"]
    request = _request(
        batch,
        {
            "calculate_entropy": False,
            "compute_loss": False,
            "no_lora_adapter": False,
            "temperature": trainer.config.actor_rollout_ref.rollout.temperature,
        },
    )
    trainer.actor_rollout_wg.compute_log_prob(request)
    return response_from_nested(_fetch(batch, "log_probs")["log_probs"], mask)


def token_advantages(batch: KVBatchMeta) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, T] advantages that another estimator computed, and the response mask that goes with them."""
    data = _fetch(batch, "advantages", "response_mask")
    return _padded(data["advantages"]), _padded(data["response_mask"])


def grpo_grad_norm(trainer: L2TMixin, batch: KVBatchMeta) -> float:
    """The gradient norm that plain GRPO would have on these rollouts."""
    data = _fetch(batch, "uid", "response_mask", "rm_scores")
    advantages, _ = compute_grpo_outcome_advantage(
        _padded(data["rm_scores"]),
        _padded(data["response_mask"]),
        np.array(fields.objects(data, "uid"), dtype=object),
        norm_adv_by_std_in_grpo=trainer.config.algorithm.get("norm_adv_by_std_in_grpo", True),
    )
    nested = response_to_nested(advantages, data["response_mask"])
    _store(batch, fields.GRPO_ADVANTAGES, nested)
    request = _request(
        batch,
        {
            "calculate_entropy": False,
            "global_batch_size": len(batch),
            "temperature": trainer.config.actor_rollout_ref.rollout.temperature,
        },
    )
    output = trainer.actor_rollout_wg.l2t_grpo_grad_norm(request)
    return float(tu.get(output, "grad_norm"))


def rollout_records(trainer: L2TMixin, rewards: ProcessRewards, context: CreditContext) -> dict[str, dict[str, Any]]:
    """What the dump says of each rollout: its episodes with text, J, gain, penalty and reward."""
    decode = lambda ids: trainer.tokenizer.decode(ids, skip_special_tokens=False)  # noqa: E731
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
            "mean_tail_advantage": _mean_advantage(context, row, rewards.episode_ids[row] == -1),
            "episodes": [
                {
                    "text": decode(tokens[start:end]),
                    "start": start,
                    "end": end,
                    "answer_score": scores[k + 1],
                    "gain": rewards.gains[row, k].item(),
                    "penalty": rewards.penalty[row, k].item(),
                    "reward": rewards.process[row, k].item(),
                    "mean_advantage": _mean_advantage(context, row, rewards.episode_ids[row] == k),
                    "states_answer": bool(rewards.states[row][k]) if rewards.states[row] else None,
                }
                for k, (start, end) in enumerate(itertools.pairwise(starts))
            ],
        }
    return records


def _mean_advantage(context: CreditContext, row: int, where: torch.Tensor) -> float | None:
    chosen = where & (context.response_mask[row] > 0)
    return context.advantages[row][chosen].mean().item() if chosen.any() else None


def _fetch(batch: KVBatchMeta, *names: str) -> TensorDict:
    """Fields of the batch's rows from the TransferQueue; those that no row has are left out."""
    return tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(names))


def _store(batch: KVBatchMeta, name: str, rows: torch.Tensor) -> None:
    """Put a nested field beside the batch's rows, for the workers to fetch."""
    data = TensorDict({name: rows}, batch_size=len(batch))
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=data)


def _request(batch: KVBatchMeta, extra_info: dict[str, Any], names: list[str] | None = None) -> KVBatchMeta:
    """The same rows with settings of our own: what earlier calls left in the batch's does not reach the workers."""
    return KVBatchMeta(
        keys=batch.keys, tags=batch.tags, partition_id=batch.partition_id, fields=names, extra_info=extra_info
    )


def _padded(nested: torch.Tensor) -> torch.Tensor:
    return nested.to_padded_tensor(padding=0) if nested.is_nested else nested


def _sampled_nan(log_probs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B] rows with a sampled token whose log-prob is NaN."""
    return (torch.isnan(_padded(log_probs)) & (_padded(mask) > 0)).any(dim=1)


def _reward_info(extra_fields: Any) -> dict[str, Any]:
    return (extra_fields or {}).get("reward_extra_info", {}) if isinstance(extra_fields, dict) else {}


def _row_episodes(info: dict[str, Any], output: int) -> fields.OutputEpisodes | None:
    if fields.EPISODES not in info:
        return None
    outputs = fields.decode_episodes(info[fields.EPISODES])
    return outputs[output] if output < len(outputs) else None
