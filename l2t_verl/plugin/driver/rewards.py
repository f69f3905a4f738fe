"""What the method knows of a step's rollouts; made by `step`, read by metrics, records and the live distributions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

# Why a row has no process reward, or is not there at all
SKIP_REASONS = (
    "no_ground_truth",
    "no_episodes",
    "no_episode_info",
    "answer_too_long",
    "score_not_finite",
    "log_prob_not_finite",
    "not_sampled",
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
        score_gaps: [B] how far J_0 and J_K are off in a second forward, in units of J; NaN for rows without one.
        gains: [B, K] fitting gains, padded with 0.
        penalty: [B, K] compression penalty in nats, padded with 0.
        process: [B, K] g − βC.
        episode_ids: [B, T] episode of each token, −1 in the tail and the padding.
        sampling_log_probs: [B, T] log-probs of the policy that sampled the tokens, in nats: verl's old ones, or the rollout
            engine's own where the row is stale.
        stale: [B] rows that older weights sampled, wholly or in part (asynchronous trainers); their log-ratios are between
            two engines, and so carry the rounding that `l2t/kl_floor` bounds.
        deltas: [B, T] log-ratio of that policy (with `levels`: of the actor) to the reference, in nats; zeros without a
            penalty.
        noise: [B, T] difference between the actor's and the rollout engine's log-probs of the same tokens, in nats: both
            have the same weights where the row is not stale, so it is rounding; None where the engine gave none.
        levels: [B, T] mean of the actor's and the reference's log-probs, in nats; None where rounding stays in the penalty.
        derivatives: [B, K] d_k in nats along the weights' displacement, padded with 0; zeros for other penalties.
        squared_displacement: ‖Δθ̃‖² of that displacement.
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
    sampling_log_probs: torch.Tensor
    stale: torch.Tensor
    deltas: torch.Tensor
    noise: torch.Tensor | None = None
    levels: torch.Tensor | None = None
    skipped: Counter = field(default_factory=lambda: Counter(dict.fromkeys(SKIP_REASONS, 0)))
    scores: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 1))
    score_gaps: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    derivatives: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    squared_displacement: float = 0.0
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
