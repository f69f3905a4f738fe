"""The step's metrics from a batch worked out by hand; rows of padding and empty statistics."""

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from l2t_verl.config import load_config
from l2t_verl.plugin import fields
from l2t_verl.plugin.driver import metrics, step
from l2t_verl.plugin.driver.estimator import CreditContext
from l2t_verl.plugin.driver.rewards import ProcessRewards

TRAINER = SimpleNamespace(l2t=load_config({"beta": 1.0}), length_cost=0.25, needs_reference=True, packs_rows=False)


def batch() -> ProcessRewards:
    """Two groups of two rollouts and a row of padding. Row 3 has no episodes; rows 0 and 1 state the answer."""
    rewards = ProcessRewards(
        keys=["p_0_0", "p_1_0", "q_0_0", "q_1_0", "q_1_1"],
        is_padding=torch.tensor([False, False, False, False, True]),
        response_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]),
        responses=[torch.zeros(4, dtype=torch.int64)] * 5,
        ends=[[1, 3], [2], [2], [], []],
        states=[[0, 1], [1], [0], [], []],
        info=[{fields.FORMAT_OK: 1.0, fields.GRADING: "ok"}] * 3 + [{fields.FORMAT_OK: 0.0, fields.GRADING: "timeout"}] * 2,
        outcome=torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0]),
        sampling_log_probs=torch.zeros(5, 4),
        stale=torch.tensor([False] * 5),
        deltas=torch.full((5, 4), 0.5),
        noise=torch.tensor([[0.01, -0.01, 0.01, -0.01]] * 4 + [[9.0] * 4]),
        score_gaps=torch.tensor([0.03, float("nan"), 0.04, float("nan"), float("nan")]),
        skipped=Counter({"no_episodes": 1, "missing_rollout": 0}),
        scores=torch.tensor([[0.1, 0.2, 0.6], [0.3, 0.2, 0.2], [0.5, 0.5, 0.5], [0.0, 0.0, 0.0], [0.9, 0.9, 0.0]]).double(),
    )
    step._combine(TRAINER, rewards)
    return rewards


def context(rewards) -> CreditContext:
    advantages = torch.zeros(5, 4)
    advantages[0, 0] = -6.0
    advantages[4] = 100.0  # padding
    return CreditContext(
        config=TRAINER.l2t,
        process=rewards.process,
        cost=rewards.penalty,
        episode_ids=rewards.episode_ids,
        old_log_probs=rewards.sampling_log_probs,
        is_padding=rewards.is_padding,
        sessions=np.array([key[:3] for key in rewards.keys], dtype=object),
        outputs=np.zeros(5, dtype=int),
        length_cost=0.25,
        max_length=4,
        norm_by_std=True,
        response_mask=rewards.response_mask,
        advantages=advantages,
        charged=0.5,
    )


def test_values_by_hand():
    rewards = batch()
    found = metrics.report(TRAINER, rewards, context(rewards))
    gains, penalties = [0.1, 0.4, -0.1, 0.0], [0.125, 0.25, 0.25, 0.25]  # ½ · 0.5² a token
    expected = {
        "episodes/mean": 1.0,
        "episodes/min": 0.0,
        "episodes/max": 2.0,
        "episodes/tokens_mean": (1 + 2 + 2 + 2) / 4,
        "format_ok": 0.75,
        "score_floor": (0.5 * (0.03**2 + 0.04**2)) ** 0.5,
        "fitting_gain/mean": sum(gains) / 4,
        "fitting_gain/std": float(np.std(gains)),
        "fitting_gain/positive_fraction": 0.5,
        "fitting_gain/unstated_mean": (0.1 + 0.0) / 2,
        "answer_score/start": (0.1 + 0.3 + 0.5) / 3,
        "answer_score/end": (0.6 + 0.2 + 0.5) / 3,
        "answer_score/first_mention": (0.5 + 0.0) / 2,
        "answer_score/correctness_corr": 1.0,  # of the two rows of group p: the other has one row with a score
        "compression/mean": sum(penalties) / 4,
        "compression/max": 0.25,
        "compression/charged": 0.5,
        "compression/share": (0.125 / 0.225 + 0.25 / 0.65 + 0.25 / 0.35 + 1.0) / 4,
        "process_reward/mean": (sum(gains) - sum(penalties)) / 4,
        "process_reward/std": float(np.std(np.subtract(gains, penalties))),
        "kl_floor": 0.5 * (4 + 3 + 2 + 1) / 4 * 0.01**2,
        "packed": 0.0,
        "length_cost": 0.25,
        "length/correct_tokens": (4 + 1) / 2,
        "advantage/abs_max": 6.0,
        "advantage/clipped_fraction": 0.1,
        "skipped/no_episodes/total": 1.0,
        "grading/timeout/total": 1.0,
        "grading/error/total": 0.0,
    }
    for name, value in expected.items():
        assert found[f"l2t/{name}"] == pytest.approx(value, rel=1e-3), name


def test_another_estimator_charges_nothing():
    rewards = batch()
    found = metrics.report(TRAINER, rewards, replace(context(rewards), charged=None))
    assert math.isnan(found["l2t/length_cost"]) and math.isnan(found["l2t/compression/charged"])


def test_padding_counts_nowhere():
    """A row of padding with wild values changes no metric."""
    rewards = batch()
    found = metrics.report(TRAINER, rewards, context(rewards))
    rewards.scores[4], rewards.deltas[4], rewards.outcome[4], rewards.noise[4] = 0.77, 50.0, 7.0, -50.0
    assert metrics.report(TRAINER, rewards, context(rewards)) == pytest.approx(found, nan_ok=True)


def test_nothing_to_measure_is_nan_and_counts_are_zero():
    rewards = batch()
    rewards.ends, rewards.states = [[]] * 5, [[]] * 5
    rewards.outcome[:] = 0.0
    rewards.noise = None
    rewards.scores = torch.zeros(5, 1).double()
    step._combine(TRAINER, rewards)
    found = metrics.report(TRAINER, rewards, context(rewards))
    empty = ("fitting_gain/mean", "compression/max", "answer_score/end", "kl_floor", "length/correct_tokens")
    assert all(math.isnan(found[f"l2t/{name}"]) for name in empty)
    assert found["l2t/episodes/max"] == 0.0


def test_rows_that_say_nothing_of_their_format_are_left_out():
    """An agent loop may bring its own reward, and then its own extra info or none."""
    rewards = batch()
    rewards.info[0], rewards.info[1] = {}, {"acc": 1.0}
    assert metrics.report(TRAINER, rewards, context(rewards))["l2t/format_ok"] == 0.5


def test_verl_aggregates_each_metric_as_its_name_says():
    """verl decides by the name: `min`, `max`, `sum` and `total` anywhere in it, everything else is averaged."""
    rewards = batch()
    for name in metrics.report(TRAINER, rewards, context(rewards)):
        words = [word for word in ("min", "max", "sum", "total") if word in name]
        assert words in ([], [name.rsplit("/", 1)[1].removeprefix("abs_")]), name
