"""Rollouts scored by this project's functions: old log-probs and answer scores from one forward, episodes, rewards."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from l2t_verl import compression, episodes, gain
from l2t_verl.config import CompressionConfig, L2TConfig
from l2t_verl.packing import Branch, PackedLogProbs, PackedRow, micro_batches, packed_forward
from recipes.controlled.labels import label_episodes, worth
from recipes.controlled.measure import is_right
from recipes.controlled.sampling import Rollout
from recipes.controlled.settings import Change
from recipes.controlled.task import MODULUS

MAX_TOKENS = 16384  # of one forward
SHIFT = 0.01  # of the displacement, for its derivative: some 1e-3 nats a token, far from rounding and from curvature


@dataclass
class Scored:
    """What the method knows of B rollouts with T response tokens and K episodes at most.

    Attributes:
        ends: episode ends of each, in tokens.
        episode_ids: [B, T] episode of each token, −1 in the tail and the padding.
        mask: [B, T] 1 for response tokens.
        outcome: [B] 1 for a right answer.
        old_log_probs: [B, T] in nats, 0 outside the mask.
        ref_log_probs: [B, T] likewise, under the start.
        scores: [B, K+1] J_0 … J_K, padded with the last.
        gains: [B, K] fitting gains.
        penalty: [B, K] compression penalty, in nats.
        process: [B, K] g − βC after what a control did to it.
        cost: [B, K] βC, in the same order.
    """

    ends: list[list[int]]
    episode_ids: torch.Tensor
    mask: torch.Tensor
    outcome: torch.Tensor
    old_log_probs: torch.Tensor
    ref_log_probs: torch.Tensor
    scores: torch.Tensor
    gains: torch.Tensor
    penalty: torch.Tensor
    process: torch.Tensor
    cost: torch.Tensor


def score(
    model: torch.nn.Module,
    reference: torch.nn.Module,
    tokenizer: Any,
    rollouts: list[Rollout],
    config: L2TConfig,
    *,
    change: Change = "",
    seed: int = 0,
) -> Scored:
    """Score rollouts by the policy that sampled them.

    Args:
        model: the policy.
        reference: the start.
        tokenizer: of both.
        rollouts: whole groups or not.
        config: the method's configuration.
        change: see `Settings`.
        seed: of the controls that draw at random.
    """
    draws = random.Random(seed)
    ends = [episode_ends(rollout, tokenizer) for rollout in rollouts]
    if change == "random_boundaries":
        ends = [sorted(draws.sample(range(1, of_row[-1] + 1), len(of_row))) if of_row else [] for of_row in ends]
    answers = [rollout.problem.answer for rollout in rollouts]
    if change == "wrong_answer":
        answers = [str((int(answer) + 1 + draws.randrange(MODULUS - 1)) % MODULUS) for answer in answers]
    found = forward(model, [packed_row(*of_row, tokenizer, config) for of_row in zip(rollouts, ends, answers, strict=True)])
    under_reference = forward(reference, [packed_row(rollout, [], "", tokenizer, config) for rollout in rollouts])
    old, ref = (pad_sequence(values.tokens, batch_first=True) for values in (found, under_reference))
    mask = pad_sequence([torch.ones(len(rollout.response), dtype=torch.int64) for rollout in rollouts], batch_first=True)
    ids = episodes.episode_ids(ends, mask.shape[1])
    width = max(len(of_row) for of_row in ends)
    scores = torch.stack([_scores(values, width, config, draws) for values in found.answers])
    gains = gain.fitting_gains(scores)
    if change == "zero_gains":
        gains = torch.zeros_like(gains)
    if change == "true_labels":
        for row, rollout, of_row in zip(gains, rollouts, ends, strict=True):
            row[: len(of_row)] = torch.tensor([worth(label) for label in labels_of(rollout, of_row, tokenizer)])
    penalty = _penalty(model, reference, rollouts, (old, ref, ids, mask), width, config.compression)
    process, cost = compression.process_rewards(gains, penalty, config.beta), config.beta * penalty.double()
    if change == "shuffled":
        for row, costs, of_row in zip(process, cost, ends, strict=True):
            order = list(range(len(of_row)))
            draws.shuffle(order)
            row[: len(of_row)], costs[: len(of_row)] = row[order].clone(), costs[order].clone()
    outcome = torch.tensor([float(is_right(rollout, tokenizer)) for rollout in rollouts])
    return Scored(ends, ids, mask, outcome, old, ref, scores, gains, penalty, process, cost)


def episode_ends(rollout: Rollout, tokenizer: Any) -> list[int]:
    """Ends of a response's episodes, in tokens."""
    return segment_of(rollout.response, tokenizer)


def segment_of(response: list[int], tokenizer: Any) -> list[int]:
    """Ends of the tagged episodes, the thought having been opened by the prompt."""
    return episodes.segment(response, tokenizer, method="episode_tags", thinking=True)


def packed_row(rollout: Rollout, ends: list[int], answer: str, tokenizer: Any, config: L2TConfig) -> PackedRow:
    """A rollout with its forced answers; none without an answer."""
    branches = []
    if answer:
        template = gain.ForcingTemplate.from_config(config.gain)
        targets = gain.answer_targets(tokenizer, rollout.prompt, rollout.response, ends, answer, template)
        branches = [
            Branch(len(rollout.prompt) + end, list(target.suffix_ids), list(target.answer_ids))
            for end, target in zip([0, *ends], targets, strict=True)
        ]
    return PackedRow([*rollout.prompt, *rollout.response], branches, first=len(rollout.prompt))


def forward(model: torch.nn.Module, rows: list[PackedRow]) -> PackedLogProbs:
    """Log-probs of all rows, in their order, by as many forwards as their tokens need."""
    answers: list[list[torch.Tensor]] = [[] for _ in rows]
    tokens = [torch.empty(0)] * len(rows)
    model.eval()
    with torch.no_grad():
        for batch in micro_batches(rows, MAX_TOKENS):
            found = packed_forward(model, [rows[i] for i in batch])
            for i, of_answers, of_tokens in zip(batch, found.answers, found.tokens, strict=True):
                answers[i], tokens[i] = of_answers, of_tokens
    return PackedLogProbs(answers, tokens, None)


def _penalty(
    model: torch.nn.Module,
    reference: torch.nn.Module,
    rollouts: list[Rollout],
    columns: tuple[torch.Tensor, ...],
    width: int,
    settings: CompressionConfig,
) -> torch.Tensor:
    """[B, K] compression penalty, without its rounding where the log-probs of the sampling are known.

    `directional` is along the displacement as it is now, decomposed in each step.
    """
    old, ref, ids, mask = columns
    if settings.estimator != "directional":
        deltas = compression.log_ratio_deltas(old, ref, mask)
        sampled = [torch.tensor(rollout.log_probs) for rollout in rollouts if rollout.log_probs is not None]
        if len(sampled) == len(rollouts):
            noise = compression.log_ratio_deltas(old, pad_sequence(sampled, batch_first=True), mask)
            return compression.corrected_penalty(
                deltas, noise, (old + ref) / 2, ids, mask, num_episodes=width, estimator=settings.estimator
            )
        return compression.compression_penalty(deltas, ids, mask, num_episodes=width, estimator=settings.estimator)
    before = dict(reference.named_parameters())
    moved = {name: weight for name, weight in model.named_parameters() if re.search(settings.parameters, name)}
    displacement = {
        name: compression.low_rank(weight.detach() - before[name], settings.rank_fraction) for name, weight in moved.items()
    }
    rows = [PackedRow([*rollout.prompt, *rollout.response], first=len(rollout.prompt)) for rollout in rollouts]
    of_tokens = compression.directional_derivatives(
        lambda: pad_sequence(forward(model, rows).tokens, batch_first=True),
        lambda scale: compression.shifted(moved, displacement, scale),
        SHIFT,
    )
    return compression.derivative_penalty(
        compression.sum_by_episode(of_tokens, ids, width),
        damping=settings.damping,
        squared_norm=sum(part.double().square().sum().item() for part in displacement.values()),
    )


def _scores(values: list[torch.Tensor], width: int, config: L2TConfig, draws: random.Random) -> torch.Tensor:
    """[K+1] scores of one response, padded with the last to `width` episodes."""
    kind, lengths = config.gain.kind, torch.tensor([len(log_probs) for log_probs in values])
    padded = pad_sequence(values, batch_first=True)
    if kind == "monte_carlo":
        # An answer here is one digit and the end: the share of n sampled ones that are right is binomial, exactly
        right = gain.reduce_log_probs(padded, lengths, kind="probability").tolist()
        n = config.gain.samples
        reduced = torch.tensor([sum(draws.random() < p for _ in range(n)) / n for p in right])
    else:
        reduced = gain.reduce_log_probs(padded, lengths, kind=kind)
    return torch.cat([reduced, reduced[-1:].expand(width + 1 - len(reduced))]).double()


def labels_of(rollout: Rollout, ends: list[int], tokenizer: Any) -> list[str]:
    """What each episode is, see `label_episodes`."""
    return label_episodes(rollout.problem, [tokenizer.decode(piece) for piece in pieces(rollout, ends)])


def pieces(rollout: Rollout, ends: list[int]) -> list[list[int]]:
    """The token ids of each episode."""
    return [rollout.response[start:end] for start, end in itertools.pairwise([0, *ends])]
