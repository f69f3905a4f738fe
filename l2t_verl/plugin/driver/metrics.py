"""Every quantity of the method as a metric of the step.

verl aggregates by name: `min`, `max`, `sum` and `total` anywhere in a name decide, everything else is averaged; counts
therefore end in `/total`. A statistic of nothing (no episode, no group with two outcomes) is NaN, not 0.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

from l2t_verl import compression
from l2t_verl.credit import CreditInputs, advantage_health, calibration, critic_values, episodes_of, success
from l2t_verl.plugin import fields
from l2t_verl.plugin.driver.context import StepContext
from l2t_verl.plugin.driver.estimator import CreditContext
from l2t_verl.plugin.driver.rewards import ProcessRewards
from l2t_verl.registry import CRITICS

NAN = float("nan")


def report(context: StepContext, rewards: ProcessRewards, credit: CreditContext) -> dict[str, float]:
    """The metrics of one batch, without padding rows."""
    rows = ~rewards.is_padding
    real = rows.nonzero().flatten().tolist()
    has = (rewards.num_episodes > 0) & rows
    live = (torch.arange(rewards.gains.shape[1]) < rewards.num_episodes[:, None]) & rows[:, None]
    gains, penalty, process = rewards.gains[live], rewards.penalty[live], rewards.process[live]
    counts = rewards.num_episodes[rows].double()
    beta = context.l2t.beta
    lengths = rewards.response_mask.sum(dim=1).double()
    found = {
        "l2t/episodes/mean": _mean(counts),
        "l2t/episodes/min": counts.min().item() if len(counts) else NAN,
        "l2t/episodes/max": counts.max().item() if len(counts) else NAN,
        "l2t/episodes/tokens_mean": _mean(_episode_lengths(rewards)),
        "l2t/format_ok": _mean(
            [rewards.info[row][fields.FORMAT_OK] for row in real if fields.FORMAT_OK in rewards.info[row]]
        ),
        "l2t/fitting_gain/mean": _mean(gains),
        "l2t/fitting_gain/std": _std(gains),
        "l2t/fitting_gain/positive_fraction": _mean((gains > 0).double()),
        "l2t/fitting_gain/unstated_mean": _mean(_unstated_gains(rewards)),
        "l2t/answer_score/start": _mean(rewards.scores[has, 0]),
        "l2t/answer_score/end": _mean(rewards.scores[has, -1]),
        "l2t/answer_score/first_mention": _mean(_first_mentions(rewards)),
        "l2t/answer_score/correctness_corr": _within_group_correlation(rewards, has),
        "l2t/compression/mean": _mean(penalty),
        "l2t/compression/max": penalty.max().item() if penalty.numel() else NAN,
        "l2t/compression/share": _mean(compression.relative_weight(gains, penalty, beta)),
        "l2t/compression/charged": NAN if credit.charged is None else credit.charged,
        "l2t/process_reward/mean": _mean(process),
        "l2t/process_reward/std": _std(process),
        "l2t/kl_floor": _kl_floor(rewards, lengths[rows]),
        "l2t/score_floor": _mean(rewards.score_gaps[~rewards.score_gaps.isnan()].double().square()) ** 0.5,
        "l2t/stale_fraction": _mean(rewards.stale[rows].double()),
        "l2t/packed": NAN if context.packs_rows is None else float(context.packs_rows),
        "l2t/length_cost": NAN if credit.charged is None else context.length_cost,  # another estimator charges nothing
        "l2t/length/correct_tokens": NAN if (tokens := rewards.mean_correct_tokens()) is None else tokens,
    }
    assert credit.advantages is not None and credit.response_mask is not None  # set by the estimator, or after another's
    health = advantage_health(
        credit.advantages[rows], rewards.process[rows], rewards.episode_ids[rows], credit.response_mask[rows]
    )
    found |= {f"l2t/advantage/{name}": value for name, value in health.items()}
    if credit.inputs is not None and credit.config.credit.method in CRITICS:
        found |= {f"l2t/critic/{name}": value for name, value in critic_calibration(credit.inputs).items()}
    found |= {f"l2t/skipped/{reason}/total": float(count) for reason, count in rewards.skipped.items()}
    for status in ("timeout", "error", "unparsable", "no_ground_truth"):
        graded = sum(rewards.info[row].get(fields.GRADING) == status for row in real)
        found[f"l2t/grading/{status}/total"] = float(graded)
    return found


def critic_calibration(inputs: CreditInputs) -> dict[str, float]:
    """How far V of `critic` and `guided` can be believed, on rollouts that it was not fitted on; see `calibration`."""
    rollouts = inputs.rollouts()
    assert inputs.scores is not None  # the credit had them
    values = critic_values(rollouts, inputs.scores, inputs.critic_weights)
    return calibration(values, success(rollouts), episodes_of(rollouts))


def _mean(values: torch.Tensor | list[float]) -> float:
    values = torch.as_tensor(values, dtype=torch.float64)
    return values.mean().item() if values.numel() else NAN


def _std(values: torch.Tensor) -> float:
    return values.double().std(unbiased=False).item() if values.numel() else NAN


def _episode_lengths(rewards: ProcessRewards) -> list[float]:
    return [float(end - start) for ends in rewards.ends for start, end in itertools.pairwise([0, *ends])]


def _unstated_gains(rewards: ProcessRewards) -> list[float]:
    """Gains of the episodes whose text does not state the answer, where that is known."""
    return [
        rewards.gains[row, k].item()
        for row, states in enumerate(rewards.states)
        for k, stated in enumerate(states)
        if not stated
    ]


def _first_mentions(rewards: ProcessRewards) -> list[float]:
    """Where the answer is first stated, as a share of the episodes (0: in the first one); rows that state it only."""
    return [states.index(1) / len(states) for states in rewards.states if 1 in states]


def _within_group_correlation(rewards: ProcessRewards, has: torch.Tensor) -> float:
    """Correlation of J_K with the outcome after both lost their group's mean; NaN if either never varies."""
    chosen = has.nonzero().flatten().tolist()
    groups = np.array([rewards.keys[row].rsplit("_", 2)[0] for row in chosen], dtype=object)
    end, outcome = rewards.scores[chosen, -1].numpy().copy(), rewards.outcome[chosen].double().numpy().copy()
    for group in set(groups.tolist()):
        members = groups == group
        end[members] -= end[members].mean()
        outcome[members] -= outcome[members].mean()
    scale = np.sqrt((end**2).sum() * (outcome**2).sum())
    return float((end * outcome).sum() / scale) if scale > 1e-12 else NAN


def _kl_floor(rewards: ProcessRewards, lengths: torch.Tensor) -> float:
    """½Nσ² for a mean response: at most what rounding alone would fake of a penalty.

    σ is the root mean square of the difference between the actor's and the rollout engine's log-probs: two implementations
    under the same weights, where the penalty compares two runs of one.
    """
    mask = (rewards.response_mask > 0) & ~(rewards.is_padding | rewards.stale)[:, None]
    if rewards.noise is None or not mask.any():
        return NAN
    return compression.noise_floor(rewards.noise[mask].double().square().mean().sqrt().item(), _mean(lengths))
