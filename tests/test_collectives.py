"""Every rank makes every call, with output or without: fake ranks here, real ones on gloo in test_worker.py."""

import threading
from types import SimpleNamespace

import pytest
import torch
from cluster import composed
from test_startup import check
from verl.utils import tensordict_utils as tu

from l2t_verl.config import ConfigError
from l2t_verl.packing import Branch, PackedRow
from l2t_verl.plugin import settings
from l2t_verl.plugin.workers import collectives, derivatives, scoring


class FakeRank:
    """verl's worker of a rank whose forward waits for its peers, as collectives do; only the first of them has output."""

    engine_config = SimpleNamespace(strategy="megatron")

    def __init__(self, barrier: threading.Barrier, has_output: bool):
        self.barrier, self.has_output, self.forwards = barrier, has_output, 0
        self.engine = SimpleNamespace(mode=None, get_data_parallel_group=lambda: None)

    def infer_batch(self, data):
        self.barrier.wait(timeout=5)  # as long as one rank waits for another that does not come
        self.forwards += 1
        if not self.has_output:
            return None
        return {"log_probs": torch.nested.as_nested_tensor([-row.float() for row in data["input_ids"].unbind()])}


def together(work, size: int = 2) -> list:
    """What each of `size` model-parallel peers, with the same rows, gives; the error of any of them is raised."""
    barrier, found, errors = threading.Barrier(size), [None] * size, []
    ranks = [FakeRank(barrier, index == 0) for index in range(size)]

    def one(index: int) -> None:
        try:
            found[index] = work(ranks[index])
        except Exception as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=one, args=(index,)) for index in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    return [(rank.forwards, values) for rank, values in zip(ranks, found, strict=True)]


def test_ranks_without_output_make_as_many_forwards_as_those_with():
    sequences = [[1, 2, 3, index % 7] for index in range(1000)]
    (calls, values), (calls_without, nothing) = together(lambda rank: collectives.sequence_log_probs(rank, sequences))
    assert calls == calls_without == 8  # 1,000 sequences in calls of 128
    assert nothing is None
    assert [row.tolist() for row in values] == [[-1.0, -2.0, -3.0]] * 1000


def test_expanded_scores_go_through_all_calls_on_every_rank():
    rows = [PackedRow([1, 2, 3, 4], [Branch(2, [5], [6, 7]), Branch(4, [], [8])])] * 200
    (calls, values), (calls_without, nothing) = together(lambda rank: scoring.expanded_log_probs(rank, rows, 64))
    assert calls == calls_without == 4
    assert nothing is None
    assert [len(answers) for answers in values[0]] == [2, 1]


def test_what_cannot_be_agreed_on_is_refused_on_every_rank_before_the_first_call():
    rank = SimpleNamespace(engine=SimpleNamespace(use_ulysses_sp=True))
    with pytest.raises(RuntimeError, match="derivatives need log-probs on every rank"):
        derivatives.derivatives(rank, None, tu.get_tensordict({}))


KEYS = ("ulysses_sequence_parallel_size", "fsdp_config.ulysses_sequence_parallel_size")


@pytest.mark.parametrize("key", KEYS)
def test_both_keys_of_ulysses_are_read(key):
    overrides = [f"actor_rollout_ref.actor.{key}=2", "actor_rollout_ref.model.use_remove_padding=True"]
    config = composed(*overrides)
    assert settings.sequence_parallel_size(config) == 2
    assert settings.why_not_fused(config, settings.read_config(config)) == "Ulysses splits the sequence over ranks"
    with pytest.raises(ConfigError, match=r"estimator=directional needs log-probs on every rank, but Ulysses over 2 ranks"):
        check(*overrides, "algorithm.l2t.compression.estimator=directional")


def test_verl_takes_ulysses_from_the_same_two_keys():
    """verl's own dataclass, with the outer key, the inner one, and both."""
    from verl.utils.config import omega_conf_to_dataclass

    for outer, inner in ((1, 1), (2, 1), (1, 4), (2, 4)):
        config = composed(
            *(f"actor_rollout_ref.actor.{key}={value}" for key, value in zip(KEYS, (outer, inner), strict=True))
        )
        actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
        assert settings.sequence_parallel_size(config) == actor.engine.ulysses_sequence_parallel_size
