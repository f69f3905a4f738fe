"""Stock main_ppo with what teams change most: LoRA, several turns, other credits; and processes that die under it."""

import itertools
import json
import math
import time
from pathlib import Path

import psutil
import pytest
from cluster import start
from tiny import read_jsonl, write_data, write_model
from two_turns import TOOL

pytestmark = pytest.mark.slow

SCORER = Path(__file__).parent / "two_turns.py"
LONG_RUN = 50  # steps; the run is ended by a death long before


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants")
    write_model(folder / "model")
    write_data(folder / "data", rows=4)
    return folder


def begin(folder: Path, name: str, *overrides: str, variables: dict[str, str] | None = None):
    data = folder / "data" / "train.parquet", folder / "data" / "val.parquet"
    rate = "actor_rollout_ref.actor.optim.lr=1e-3"
    return start(folder / name, folder / "model", data, LONG_RUN, rate, *overrides, variables=variables)


def wait_for_steps(run, steps: int, seconds: float = 600) -> list[dict]:
    end = time.monotonic() + seconds
    while len(run.metrics()) < steps:
        assert run.process.poll() is None, run.tail()
        assert time.monotonic() < end, run.tail()
        time.sleep(1.0)
    return [row["data"] for row in run.metrics()]


def process_of(run, name: str) -> psutil.Process:
    """The run's own process whose title or command line holds `name`."""
    family = run.family()
    found = [member for member in family if name in member.name() or name in " ".join(member.cmdline())]
    assert found, [(member.name(), member.cmdline()[:2]) for member in family]
    return found[0]


def assert_ends_soon_with(run, text: str, seconds: float = 75) -> None:
    since = time.monotonic()
    code = run.wait(seconds)
    print(f"ended after {time.monotonic() - since:.0f} s with status {code}")
    assert code != 0
    assert text in run.tail(), run.tail()


def test_lora_two_turns_kl_loss_the_paper_s_credit_and_a_worker_that_dies(folder):
    agents = folder / "agents.yaml"
    agents.write_text(json.dumps([{"name": "two_turns", "_target_": "two_turns.TwoTurns"}]))
    run = begin(
        folder,
        "lora",
        "actor_rollout_ref.model.lora_rank=8",
        "actor_rollout_ref.actor.use_kl_loss=True",
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=2",
        f"actor_rollout_ref.rollout.agent.agent_loop_config_path={agents}",
        "actor_rollout_ref.rollout.agent.default_agent_loop=two_turns",
        "algorithm.l2t.credit.method=paper",
        "+algorithm.l2t.credit.ratio_clip=5",
        "algorithm.l2t.episodes.method=surprise",
        "+algorithm.l2t.compression.estimator=log_ratio_episode",
        "algorithm.l2t.diagnostics.displacement=False",
    )
    try:
        rows = wait_for_steps(run, 3)  # 4 prompts, 2 a step: the third step is in the second epoch
        assert rows[2]["training/epoch"] > rows[0]["training/epoch"]
        assert rows[0]["l2t/compression/max"] == 0.0  # a fresh adapter is the base model, which is the reference
        assert rows[2]["l2t/compression/mean"] > 0
        assert all(row["actor/grad_norm"] > 0 for row in rows)
        assert all(row["training/rollout_probs_diff_max"] < 1e-2 for row in rows)  # the adapter reaches the rollout
        dumped = read_jsonl(run.folder / "rollouts" / "1.jsonl")
        outputs = [row["uid"].rsplit("_", 1)[1] for row in dumped if row.get("l2t")]
        assert outputs.count("0") == 8
        assert outputs.count("1") > 0  # the second outputs of some trajectories
        for row in (row for row in dumped if row.get("l2t")):  # the rest is verl's padding
            record = row["l2t"]
            if row["uid"].endswith("_0"):
                assert TOOL.strip() in row["output"]
                assert record["tokens"] < len(record["response_ids"])  # the tool's tokens count in no T_i
            ends = [0, *(episode["end"] for episode in record["episodes"])]
            assert all(a < b for a, b in itertools.pairwise(ends))
            gains = sum(episode["gain"] for episode in record["episodes"])
            assert math.isclose(gains, record["answer_score_end"] - record["answer_score_start"], abs_tol=1e-6)
        process_of(run, "WorkerDict").kill()
        assert_ends_soon_with(run, "died")
    finally:
        run.end()


def test_alpha_0_is_grpo_and_a_rollout_server_that_dies(folder):
    run = begin(
        folder,
        "grpo",
        "actor_rollout_ref.rollout.n=3",
        "+algorithm.l2t.gain.backend=expanded",
        "algorithm.l2t.alpha=0",
        "algorithm.l2t.credit.method=episode",
        "+algorithm.l2t.credit.gamma=1.0",
        "algorithm.rollout_correction.bypass_mode=True",
        "algorithm.use_kl_in_reward=False",
        f"reward.custom_reward_function.path={SCORER}",
        "reward.custom_reward_function.name=share_of_vowels",
        "actor_rollout_ref.actor.loss_agg_mode=token-mean",
    )
    try:
        rows = wait_for_steps(run, 2)
        for row in rows:
            assert row["critic/score/max"] > row["critic/score/min"]
            # the trained gradient's norm and the one that the diagnostic takes from verl's own GRPO
            assert row["actor/grad_norm"] == pytest.approx(row["l2t/grpo_grad_norm"], rel=1e-3)
            assert row["l2t/fitting_gain/std"] > 0  # measured, though not trained with
            assert row["l2t/packed"] == 0.0
        # in bypass mode verl's old log-probs are the rollout engine's; the penalty still takes the actor's own
        assert rows[0]["l2t/compression/max"] == 0.0
        assert rows[1]["l2t/compression/mean"] > 0
        process_of(run, "EngineCore").kill()
        assert_ends_soon_with(run, "rollout server")
    finally:
        run.end()


def test_asynchronous_steps_with_sampled_scores_and_derivatives_and_an_agent_loop_that_dies(folder):
    """`l2t_colocate_async`: what a warm-up batch left over is stale at the second step. The outcome, and so the accuracy of
    a sampled answer, is a share of vowels."""
    run = begin(
        folder,
        "async",
        "trainer.v1.trainer_mode=l2t_colocate_async",
        "algorithm.l2t.gain.kind=monte_carlo",
        "+algorithm.l2t.gain.samples=2",
        "+algorithm.l2t.gain.sample_tokens=16",
        "+algorithm.l2t.compression.estimator=directional",
        "+algorithm.l2t.compression.rank_fraction=0.25",
        "+algorithm.l2t.compression.refresh_steps=1",
        "algorithm.l2t.diagnostics.displacement=False",
        f"reward.custom_reward_function.path={SCORER}",
        "reward.custom_reward_function.name=share_of_vowels",
    )
    try:
        rows = wait_for_steps(run, 3)
        assert all(row["l2t/skipped/not_sampled/total"] == 0 for row in rows)
        assert all(row["l2t/fitting_gain/std"] > 0 for row in rows)
        assert all(row["actor/grad_norm"] > 0 for row in rows)
        assert "timing_s/ref" not in rows[0]  # derivatives need no reference policy
        assert rows[0]["l2t/compression/max"] == 0.0
        assert all(row["l2t/compression/mean"] > 0 for row in rows[1:])
        assert max(row["l2t/stale_fraction"] for row in rows) > 0
        for dumped in read_jsonl(run.folder / "rollouts" / "1.jsonl"):
            record = dumped["l2t"]
            scores = [record["answer_score_start"], *(episode["answer_score"] for episode in record["episodes"])]
            assert all(0 <= score < 5 for score in scores)
        process_of(run, "AgentLoopWorker").kill()
        assert_ends_soon_with(run, "AgentLoopWorker")
    finally:
        run.end()


def test_a_rollout_on_devices_of_its_own_and_a_storage_unit_that_dies(folder):
    """`l2t_separate_async` without hybrid replicas: actor, reference and rollout are workers of their own, and weights go
    through a checkpoint engine, which here writes files. The start proves that the rollout follows them."""
    run = begin(
        folder,
        "separate",
        "trainer.v1.trainer_mode=l2t_separate_async",
        "trainer.v1.separate_async.parameter_sync_step=1",
        "actor_rollout_ref.hybrid_engine=False",
        "actor_rollout_ref.rollout.nnodes=1",
        "actor_rollout_ref.rollout.n_gpus_per_node=1",
        "actor_rollout_ref.rollout.checkpoint_engine.backend=file",
        "actor_rollout_ref.rollout.checkpoint_engine.custom_backend_module=file_weights",
        f"+actor_rollout_ref.rollout.checkpoint_engine.engine_kwargs.file.folder={folder}",
        "ray_kwargs.ray_init.num_gpus=2",
        "algorithm.l2t.diagnostics.displacement=False",
        variables={"VERL_LOGGING_LEVEL": "WARN"},  # verl 0.9.1 ends at a line that it logs otherwise
    )
    try:
        rows = wait_for_steps(run, 3)
        assert "weight update checked" in run.log
        assert all(row["l2t/fitting_gain/std"] > 0 for row in rows)
        assert rows[0]["l2t/compression/max"] < 1e-9
        assert rows[2]["l2t/compression/mean"] > 0
        assert rows[0]["l2t/stale_fraction"] == 0.0
        assert max(row["l2t/stale_fraction"] for row in rows[1:]) > 0  # they were sampled while the actor was trained
        process_of(run, "SimpleStorageUnit").kill()
        assert_ends_soon_with(run, "SimpleStorageUnit")
    finally:
        run.end()
