"""Histograms reach real TensorBoard files and a real W&B run (offline), through verl's own adapters."""

import logging

import numpy as np
import pytest
from test_metrics import batch
from verl.utils.tracking import Tracking

from l2t_verl.plugin.driver.live import distributions, log_distributions

NAMES = {"l2t/fitting_gain/episodes", "l2t/compression/episodes", "l2t/process_reward/episodes"}


@pytest.fixture
def tracking(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path / "tensorboard"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")

    def make(*backends: str) -> Tracking:
        return Tracking("l2t_verl", "test", list(backends), config={"trainer": {}})

    return make


def test_only_real_episodes_are_drawn():
    rewards = batch()
    found = distributions(rewards)
    assert set(found) == NAMES
    assert all(len(values) == 4 for values in found.values())  # 2 + 1 + 1 + 0, and the padding row left out
    rewards.gains[0, 0] = float("nan")
    assert len(distributions(rewards)["l2t/fitting_gain/episodes"]) == 3


def test_tensorboard_gets_histograms(tracking, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    verl = tracking("tensorboard")
    rewards = batch()
    log_distributions(verl.logger, rewards, 3)
    verl.logger["tensorboard"].writer.flush()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["histograms"]) == NAMES
    (drawn,) = events.Histograms("l2t/fitting_gain/episodes")
    values = distributions(rewards)["l2t/fitting_gain/episodes"]
    assert drawn.step == 3
    assert (drawn.histogram_value.min, drawn.histogram_value.max) == (values.min().item(), values.max().item())
    verl.finish()


def test_wandb_gets_histograms_in_the_step_of_the_metrics(tracking):
    verl = tracking("wandb")
    run = verl.logger["wandb"].run
    log_distributions(verl.logger, batch(), 3)
    verl.log({"critic/score/mean": 0.5}, step=3)
    verl.log({"critic/score/mean": 0.7}, step=4)  # with it the third step is complete
    held = run.summary["l2t/process_reward/episodes"]
    assert held["_type"] == "histogram"
    assert np.sum(held["values"]) == 4
    assert (run.summary["critic/score/mean"], run.summary["_step"]) == (0.5, 3)  # one step, not two
    verl.finish()


def test_other_backends_and_batches_without_episodes_are_left_alone(tracking, caplog):
    log_distributions({"console": object(), "file": object()}, batch(), 1)
    rewards = batch()
    rewards.ends = [[]] * 5
    log_distributions(tracking("tensorboard").logger, rewards, 1)
    assert caplog.records == []


def test_a_backend_that_fails_costs_a_warning_and_no_run(caplog):
    with caplog.at_level(logging.WARNING):
        log_distributions({"tensorboard": object()}, batch(), 7)
    assert "no histograms for step 7" in caplog.text
