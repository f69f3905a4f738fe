"""The trainer without a cluster: it starts as verl's own does, provides the reference, looks at the data first."""

import importlib
import json
import logging
import math
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cluster import composed
from tiny import byte_tokenizer, write_data, write_model
from transformers import MistralConfig, MistralForCausalLM
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from l2t_verl import sandbox
from l2t_verl.config import ConfigError, load_config
from l2t_verl.credit import CreditInputs, LengthCost
from l2t_verl.plugin import fields, settings
from l2t_verl.plugin.driver import step
from l2t_verl.plugin.driver.rewards import ProcessRewards
from l2t_verl.plugin.driver.trainer import L2TMixin, L2TTrainerSync
from l2t_verl.plugin.workers import scoring
from l2t_verl.plugin.workers.worker import L2TDetachWorker, L2TWorker

LORA = "actor_rollout_ref.model.lora_rank=8"
NO_PENALTY = "algorithm.l2t.beta=0"
KL_LOSS = "actor_rollout_ref.actor.use_kl_loss=True"
KL_IN_REWARD = "algorithm.use_kl_in_reward=True"


def config(*overrides: str):
    return composed("actor_rollout_ref.model.path=nowhere", *overrides)


SEPARATE = (
    "trainer.v1.trainer_mode=l2t_separate_async",
    "actor_rollout_ref.rollout.nnodes=1",
    "actor_rollout_ref.rollout.n_gpus_per_node=1",
    "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl",
    "trainer.v1.separate_async.parameter_sync_step=1",
)
MODES = {
    "sync": ("trainer.v1.trainer_mode=l2t_sync",),
    "colocate_async": ("trainer.v1.trainer_mode=l2t_colocate_async",),
    "separate_async": SEPARATE,
}


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_is_verls_own_with_l2t_in_it(mode):
    """The same buffer, sizes and configuration as stock; verl compares the mode's name in many places."""
    ours = TRAINER_REGISTRY[f"l2t_{mode}"](config(*MODES[mode]))
    stock = TRAINER_REGISTRY[mode](config(*MODES[mode], f"trainer.v1.trainer_mode={mode}"))
    assert type(ours).__mro__[1:3] == (L2TMixin, TRAINER_REGISTRY[mode])
    assert type(ours.replay_buffer) is type(stock.replay_buffer)
    settings = [
        {name: value for name, value in vars(trainer.replay_buffer).items() if not callable(value)}
        for trainer in (ours, stock)
    ]
    assert str(settings[0]) == str(settings[1])
    assert ours.trainer_mode == stock.trainer_mode == mode
    assert ours.parameter_sync_step == stock.parameter_sync_step
    assert ours.config.trainer == stock.config.trainer
    assert vars(type(ours)).keys() <= {"__module__", "__doc__", "__abstractmethods__", "_abc_impl", "worker_class"}


@pytest.mark.parametrize(
    ("overrides", "roles"),
    [
        ((), {Role.ActorRolloutRef}),
        ((NO_PENALTY,), {Role.ActorRollout}),
        (("actor_rollout_ref.hybrid_engine=False",), {Role.Actor, Role.RefPolicy}),
        (("actor_rollout_ref.hybrid_engine=False", KL_LOSS), {Role.Actor, Role.RefPolicy}),
        (("actor_rollout_ref.hybrid_engine=False", NO_PENALTY), {Role.Actor}),
        (("actor_rollout_ref.hybrid_engine=False", LORA), {Role.Actor}),
    ],
)
def test_the_separate_trainer_has_workers_that_can_keep_and_restore_weights(overrides, roles, monkeypatch):
    quiet = logging.getLogger("verl.trainer.ppo.v1.trainer_separate_async")  # as VERL_LOGGING_LEVEL=WARN makes it
    monkeypatch.setattr(quiet, "isEnabledFor", lambda level: level > logging.INFO)
    trainer = TRAINER_REGISTRY["l2t_separate_async"](config(*SEPARATE, *overrides))
    trainer._init_resource_pool_mgr()
    assert set(trainer.role_worker_mapping) == roles
    for role in roles:
        assert trainer.role_worker_mapping[role].__ray_metadata__.class_name == L2TDetachWorker.__name__
        assert trainer.mapping[role] == "global_pool"
    assert issubclass(L2TDetachWorker, DetachActorWorker)


@pytest.mark.parametrize(
    ("overrides", "float32", "fused"),
    [
        ((), True, True),
        ((), False, False),
        (("+algorithm.l2t.gain.fused=True",), False, True),
        (("+algorithm.l2t.gain.fused=False",), True, False),
        (("+algorithm.l2t.gain.backend=expanded",), True, False),
        (("algorithm.l2t.episodes.method=surprise",), True, False),
        (("+algorithm.l2t.gain.kind=monte_carlo",), True, False),
        (("algorithm.rollout_correction.bypass_mode=True",), True, False),
    ],
)
def test_scores_come_with_the_old_log_probs_where_nothing_speaks_against_it(overrides, float32, fused):
    overrides = [o.removeprefix("+") if "kind" in o else o for o in overrides]
    trainer = L2TTrainerSync(config(*overrides))
    trainer.actor_rollout_wg = SimpleNamespace(l2t_fuses=lambda: [float32, float32])
    assert trainer._fuses_scores() is fused


class Workers:
    """Two workers of an engine whose attention can be exchanged, or of a model with a window, whose cannot."""

    def __init__(self, windowed: bool):
        sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
        module = MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=8)) if windowed else None
        self.actor = SimpleNamespace(
            engine_config=SimpleNamespace(strategy="fsdp2"), engine=SimpleNamespace(module=module, use_ulysses_sp=False)
        )
        if not windowed:
            self.actor.l2t_why_not_packed = None  # found out before

    def l2t_why_not_packed(self) -> list[str | None]:
        return [scoring.why_not_packed(self.actor)] * 2


PACKED = "+algorithm.l2t.gain.backend=packed"


@pytest.mark.parametrize(
    ("overrides", "windowed", "packs"),
    [
        ((), False, True),
        ((PACKED,), False, True),
        ((), True, False),
        (("+algorithm.l2t.gain.backend=expanded",), True, False),
        (("algorithm.l2t.gain.kind=monte_carlo", PACKED), True, None),
    ],
)
def test_a_fall_back_to_expanded_is_said_at_the_start(overrides, windowed, packs, caplog):
    trainer = L2TTrainerSync(config(*overrides))
    trainer.actor_rollout_wg = Workers(windowed)
    assert trainer._packs_rows() is packs
    said = [record.getMessage() for record in caplog.records if "not packed" in record.getMessage()]
    assert len(said) == (windowed and not overrides)
    assert all("window of 8 tokens" in line and "algorithm.l2t.gain.backend=expanded" in line for line in said)


def test_packed_rows_that_were_asked_for_and_cannot_be_had_are_refused():
    trainer = L2TTrainerSync(config(PACKED))
    trainer.actor_rollout_wg = Workers(windowed=True)
    with pytest.raises(ConfigError, match=r"gain\.backend=packed: .*window of 8 tokens.*leave it out, or set it to"):
        trainer._packs_rows()


@pytest.mark.parametrize(("estimator", "beta", "reference", "kept"), [
    ("log_ratio", 1.2, True, False), ("directional", 1.2, False, True), ("exact", 1.2, False, True),
    ("directional", 0, False, False),
])  # fmt: skip
def test_derivatives_need_no_reference_but_the_start(monkeypatch, estimator, beta, reference, kept):
    trainer = L2TTrainerSync(config(f"+algorithm.l2t.compression.estimator={estimator}", f"algorithm.l2t.beta={beta}"))
    assert trainer.use_reference_policy is trainer.needs_reference is reference
    calls = []
    trainer.actor_rollout_wg = SimpleNamespace(l2t_keep_start=lambda settings: calls.append(settings["estimator"]))
    monkeypatch.setattr(
        PPOTrainerSync, "_load_checkpoint", lambda self: setattr(self, "global_steps", 0) or calls.append("load")
    )
    trainer._load_checkpoint()
    assert calls == ([estimator] if kept else []) + ["load"]


def test_sampled_scores_need_an_agent_loop_that_samples(caplog):
    trainer = L2TTrainerSync(config("algorithm.l2t.gain.kind=monte_carlo"))
    agent = trainer.config.actor_rollout_ref.rollout.agent
    module, _, name = agent.agent_loop_manager_class.rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), name), AgentLoopManagerTQ)
    assert caplog.text == ""
    other = "+actor_rollout_ref.rollout.agent.agent_loop_manager_class=mine.Manager"
    trainer = L2TTrainerSync(config("algorithm.l2t.gain.kind=monte_carlo", other))
    assert trainer.config.actor_rollout_ref.rollout.agent.agent_loop_manager_class == "mine.Manager"
    assert "rows without them count in l2t/skipped/not_sampled" in caplog.text


@pytest.mark.parametrize("overrides", [(), ("data.gen_batch_size=1", "trainer.v1.sampler.sync_refill_failed_groups=True")])
def test_verl_takes_it_for_the_synchronous_trainer(overrides):
    """verl compares the mode's name with "sync" in many places; under another name it chooses the asynchronous parts."""
    ours = L2TTrainerSync(config(*overrides))
    stock = PPOTrainerSync(config(*overrides, "trainer.v1.trainer_mode=sync"))
    assert type(ours.replay_buffer) is type(stock.replay_buffer)
    settings = [
        {name: value for name, value in vars(trainer.replay_buffer).items() if not callable(value)}
        for trainer in (ours, stock)
    ]
    assert settings[0] == settings[1]
    assert ours.parameter_sync_step == stock.parameter_sync_step
    assert ours.trainer_mode == stock.trainer_mode == "sync"
    assert ours.config.trainer == stock.config.trainer


@pytest.mark.parametrize(
    ("overrides", "role", "reference"),
    [
        ((), Role.ActorRolloutRef, True),  # verl would have no reference here: L2T provides it
        ((NO_PENALTY,), Role.ActorRollout, False),
        ((KL_LOSS,), Role.ActorRolloutRef, True),
        ((KL_LOSS, NO_PENALTY), Role.ActorRolloutRef, True),
        ((KL_IN_REWARD,), Role.ActorRolloutRef, True),
        ((LORA,), Role.ActorRollout, True),  # the reference is the base model, inside the actor
        ((LORA, KL_LOSS), Role.ActorRollout, True),
        (("actor_rollout_ref.model.lora.rank=8",), Role.ActorRollout, True),
    ],
)
def test_the_reference_policy_is_there_where_the_penalty_needs_it(overrides, role, reference):
    trainer = L2TTrainerSync(config(*overrides))
    trainer._init_resource_pool_mgr()
    assert trainer.use_reference_policy is reference
    workers = {name for name in trainer.role_worker_mapping if name in (Role.ActorRollout, Role.ActorRolloutRef)}
    assert workers == {role}
    assert trainer.mapping[role] == "global_pool"
    assert trainer.resource_pool_manager.mapping is trainer.mapping  # so that the pool is found under the new role
    assert trainer.role_worker_mapping[role].__ray_metadata__.class_name == L2TWorker.__name__
    if not overrides:  # else the user asked for it, and verl's own check for its batch size holds
        assert trainer.config.actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu == 2


def test_an_impossible_configuration_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match=r"algorithm\.l2t\.alpha.*\n.*algorithm\.l2t\.episodes\.method"):
        L2TTrainerSync(config("algorithm.l2t.alpha=-1", "algorithm.l2t.episodes.method=sentences"))


# ---- data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def trainer_with_data(folder, name: str, rows: int = 4, overrides: tuple[str, ...] = (), **changes):
    model = folder / "model"
    if not model.exists():
        write_model(model)
    train, val = write_data(folder / name, rows, **changes)
    paths = (f"actor_rollout_ref.model.path={model}", f"data.train_files={train}", f"data.val_files={val}")
    trainer = L2TTrainerSync(composed(*paths, *overrides))
    trainer._init_tokenizer()
    return trainer


def test_good_data_passes(folder, caplog):
    trainer = trainer_with_data(folder, "good")
    trainer._init_dataloader()
    assert len(trainer.train_dataset) == 4
    assert caplog.records == [] or all(record.levelno < logging.WARNING for record in caplog.records)


@pytest.mark.parametrize(
    ("name", "truth"),
    [("none", {"style": "rule", "ground_truth": None}), ("empty", {"style": "rule", "ground_truth": " "})],
)
def test_a_missing_ground_truth_is_an_error_at_the_start(folder, name, truth):
    trainer = trainer_with_data(folder, name, reward_model=truth)
    with pytest.raises(
        ConfigError, match=r"data\.train_files: 4 of 4 rows have no ground truth \(rows 0, 1, 2, 3\)"
    ) as error:
        trainer._init_dataloader()
    assert "data.val_files: 4 of 4" in str(error.value)  # both in one message


def test_with_a_custom_reward_function_it_is_a_warning(folder, caplog):
    overrides = ("reward.custom_reward_function.path=somewhere.py",)
    trainer = trainer_with_data(folder, "custom", overrides=overrides, reward_model={"style": "rule", "ground_truth": ""})
    trainer._init_dataloader()
    assert "l2t/skipped/no_ground_truth" in caplog.text


def test_tests_that_nothing_can_run_are_refused(folder, monkeypatch):
    tests = {"extra_info": {"index": 0, "tests": {"source": "assert f(1) == 1", "entry": "", "preamble": ""}}}
    trainer_with_data(folder, "tests", **tests)._init_dataloader()  # bubblewrap is here

    def refuse() -> None:
        raise sandbox.SandboxError("no namespaces")

    monkeypatch.setattr(sandbox, "require", refuse)
    with pytest.raises(ConfigError, match=r"data\.train_files: rows have tests, and no namespaces"):
        trainer_with_data(folder, "tests", **tests)._init_dataloader()
    with pytest.raises(ConfigError, match=r"4 of 4 rows have no extra_info\.tests \(rows 0, 1, 2, 3\)"):
        trainer_with_data(folder, "none", overrides=("+algorithm.l2t.outcome.grader=tests",))._init_dataloader()


def test_images_are_refused(folder):
    trainer = trainer_with_data(folder, "images", overrides=("data.filter_overlong_prompts=False",), images=["a.png"])
    with pytest.raises(ConfigError, match="rows carry images; L2T scores text only"):
        trainer._init_dataloader()


def test_positions_in_three_dimensions_are_refused(folder):
    trainer = trainer_with_data(folder, "vision")
    trainer.processor = SimpleNamespace(get_rope_index=None)
    with pytest.raises(ConfigError, match="its positions have three dimensions"):
        trainer._init_dataloader()


def test_prompts_and_answers_have_to_fit_the_model(folder, caplog):
    trainer = trainer_with_data(folder, "long_prompts", overrides=("data.max_prompt_length=1024",))
    with pytest.raises(ConfigError, match="leaves no room for a response: the model has 1024 positions"):
        trainer._init_dataloader()
    long = {"style": "rule", "ground_truth": "1" * 800}
    trainer = trainer_with_data(folder, "long_answers", reward_model=long)
    with pytest.raises(ConfigError, match=r"ground truth \('1{40}'\) takes 8\d\d tokens when it is forced"):
        trainer._init_dataloader()
    trainer = trainer_with_data(folder, "tight", overrides=("data.max_response_length=800",))
    trainer._init_dataloader()
    assert "may leave no room for its answer" in caplog.text


def test_a_tokenizer_without_a_pad_token_gets_one_from_verl(folder):
    from verl.utils import hf_tokenizer

    byte_tokenizer(pad=False).save_pretrained(folder / "no_pad")
    assert hf_tokenizer(str(folder / "no_pad")).pad_token_id is not None


# ---- what only the trainer knows of an episode


def stub(**episodes):
    return SimpleNamespace(l2t=load_config({"episodes": episodes}))


def test_a_tool_s_output_is_no_episode():
    """Multi-turn: an episode that is wholly masked goes, and what is said of the others stays with them."""
    found = fields.OutputEpisodes([2, 4, 6], [0, 1, 1])
    ends, states = step._final_episodes(stub(), found, torch.tensor([1, 1, 0, 0, 1, 1]), torch.zeros(6))
    assert ends == [2, 6]
    assert states == [0, 1]


def test_surprise_cuts_the_body_that_the_reward_manager_found():
    log_probs = torch.tensor([-0.1, -5.0, -0.1, -9.0, -9.0])
    found = fields.OutputEpisodes([4], [])  # the tail begins at 4: its surprise cuts nothing
    ends, states = step._final_episodes(stub(method="surprise"), found, torch.ones(5), log_probs)
    assert ends == [1, 3, 4]
    assert states == []


@pytest.mark.parametrize(("oldest", "stale"), [(4, False), (3, True), (0, True), (None, False)])
def test_a_row_is_stale_if_older_weights_than_the_last_step_s_sampled_any_of_it(oldest, stale):
    """After step 4 the rollout has weights number 4; step 5 trains on what they sampled, and on what was left over."""
    assert step._is_stale({"min_global_steps": oldest}, 5) is stale
    assert step._is_stale({}, 5) is False


def test_sampled_scores_follow_the_episodes_that_are_left():
    found = fields.OutputEpisodes([2, 4, 6], [0, 1, 1])
    info = {fields.EPISODES: fields.encode_episodes([found, fields.OutputEpisodes([], [])]),
            fields.SAMPLED_SCORES: fields.encode_scores([[0.0, 0.25, 0.5, 1.0], None])}  # fmt: skip
    rewards = SimpleNamespace(keys=["u_0_0", "u_0_1", "v_0_0"], info=[info, info, {}], ends=[[2, 6], [3], [3]])
    assert step._sampled_scores(rewards, 0).tolist() == [0.0, 0.25, 1.0]
    assert step._sampled_scores(rewards, 1) is None  # its own sampling failed
    assert step._sampled_scores(rewards, 2) is None  # nobody sampled


def test_a_row_whose_derivative_is_broken_is_left_out_and_counted(monkeypatch):
    """The others keep theirs; ½ d² and the damping are theirs alone."""
    nested = torch.nested.as_nested_tensor([torch.tensor(row).double() for row in ([0, 2, 4], [0, math.nan], [0])],
                                           layout=torch.jagged)  # fmt: skip
    data = {fields.DERIVATIVES: nested, fields.DISPLACEMENT_NORM: torch.full((3,), 2.0)}
    monkeypatch.setattr(step, "fetch", lambda batch, *names: {name: data[name] for name in names})
    monkeypatch.setattr(step, "with_settings", lambda *_: None)
    trainer = SimpleNamespace(
        displaces=True,
        l2t=load_config({"beta": 1.0, "compression": {"estimator": "directional", "damping": 0.5}}),
        config=SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=SimpleNamespace(temperature=1.0))),
        workers=SimpleNamespace(l2t_derivatives=lambda request: None),
    )
    zeros = torch.zeros(3, 6)
    rewards = ProcessRewards(
        keys=["a_0_0", "a_1_0", "a_2_0"], is_padding=torch.zeros(3, dtype=torch.bool), response_mask=zeros + 1, responses=[],
        ends=[[2, 4], [3], []], states=[[], [], []], info=[], outcome=torch.zeros(3), sampling_log_probs=zeros,
        stale=torch.zeros(3, dtype=torch.bool), deltas=zeros,
        scores=torch.tensor([[0, 0.5, 1], [0, 1, 1], [0, 0, 0]]).double(),
    )  # fmt: skip
    step._differentiate(trainer, None, rewards)
    step._combine(trainer, rewards)
    assert rewards.skipped["log_prob_not_finite"] == 1
    assert rewards.ends == [[2, 4], [], []]
    assert rewards.penalty.tolist() == [[2.0 + 0.5, 8.0 + 0.5], [0.0, 0.0], [0.0, 0.0]]
    assert rewards.process.tolist() == [[0.5 - 2.5, 0.5 - 8.5], [0.0, 0.0], [0.0, 0.0]]


BFLOAT16 = "actor_rollout_ref.actor.fsdp_config.mixed_precision=null"
NO_LOG_PROBS = "actor_rollout_ref.rollout.calculate_log_probs=False"


@pytest.mark.parametrize(
    ("overrides", "corrects"),
    [
        ((), False),
        ((BFLOAT16,), True),
        (("actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=bf16",), True),
        ((BFLOAT16, NO_PENALTY), False),
        ((BFLOAT16, "+algorithm.l2t.compression.rounding_correction=False"), False),
        ((BFLOAT16, "+algorithm.l2t.compression.estimator=directional"), False),
        (("+algorithm.l2t.compression.rounding_correction=True",), True),
    ],
)
def test_rounding_is_taken_off_where_there_is_some(overrides, corrects):
    """The rollout engine's log-probs are then asked for, and only then."""
    trainer = L2TTrainerSync(config(*overrides, NO_LOG_PROBS))
    assert trainer.corrects_rounding is corrects
    assert trainer.config.actor_rollout_ref.rollout.calculate_log_probs is corrects


def collected(monkeypatch, corrects: bool, rollout: list | None):
    """Two rows of two tokens, the second sampled by older weights."""
    nested = lambda rows: torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)  # noqa: E731
    logs = {"old_log_probs": [[-1.0, -2.0]] * 2, "ref_log_prob": [[-1.5, -2.0]] * 2}
    logs |= {} if rollout is None else {"rollout_log_probs": rollout}
    data = {name: nested(rows) for name, rows in logs.items()}
    data |= {"responses": nested([[1, 2]] * 2), "rm_scores": nested([[0.0, 1.0]] * 2),
             "response_mask": nested([[1, 1]] * 2)}  # fmt: skip
    monkeypatch.setattr(step, "fetch", lambda batch, *names: data | {"extra_fields": [{}, {}]})
    monkeypatch.setattr(step.fields, "objects", lambda data, name: [{}, {}])
    monkeypatch.setattr(step, "_find_episodes", lambda *_: [([1, 2], [], None)] * 2)
    overrides = {"compression": {"rounding_correction": corrects}}
    context = SimpleNamespace(
        corrects_rounding=corrects, needs_reference=True, step=5, l2t=load_config(overrides), rollouts=2, config=config()
    )
    tags = [{"min_global_steps": oldest} for oldest in (4, 2)]
    rewards = step._collect(context, SimpleNamespace(keys=["a_0_0", "b_0_0"], tags=tags))
    rewards.scores = torch.zeros(2, 3, dtype=torch.float64)
    if rewards.ends[0]:
        step._combine(context, rewards)
    return rewards


def test_the_penalty_is_less_its_rounding(monkeypatch):
    """One token a bin, so that each is ½ [(e − r)² − (e − a)²]; without the correction, ½ of the sampling policy's ratio."""
    rollout = [[-1.25, -2.0], [-1.0, -2.5]]
    found = collected(monkeypatch, True, rollout)
    expected = [[0.5 * (0.25**2 - 0.25**2), 0.0], [0.5 * (0.5**2 - 0.0), 0.5 * (0.5**2 - 0.5**2)]]
    assert found.penalty.tolist() == pytest.approx(torch.tensor(expected).double())
    own = collected(monkeypatch, False, rollout)
    assert own.penalty.tolist() == [[0.5 * 0.5**2, 0.0], [0.5 * 0.5**2, 0.5 * 0.5**2]]
    assert own.levels is None
    assert torch.equal(found.sampling_log_probs, own.sampling_log_probs)


def test_a_row_without_the_engine_s_log_probs_is_left_out_and_a_batch_is_refused(monkeypatch):
    found = collected(monkeypatch, True, [[math.nan, -2.0], [-1.0, -2.5]])
    assert found.ends == [[], [1, 2]]
    assert found.skipped["log_prob_not_finite"] == 1
    with pytest.raises(RuntimeError, match=r"without rollout_log_probs.*beta=0.*rounding_correction=False"):
        collected(monkeypatch, True, None)


def test_each_output_of_a_trajectory_has_its_own_episodes():
    info = {fields.EPISODES: fields.encode_episodes([fields.OutputEpisodes([2], [0]), fields.OutputEpisodes([3], [1])])}
    assert step._row_episodes(info, 1) == fields.OutputEpisodes([3], [1])
    assert step._row_episodes(info, 2) is None
    assert step._row_episodes({}, 0) is None


# ---- the penalty's weight


@pytest.mark.parametrize(
    ("overrides", "beta"),
    [
        ((), 1.2 * 150 / 160),
        (("data.max_response_length=16384",), 1.2 * 150 / 16384),
        (("data.max_response_length=16384", "+algorithm.l2t.beta_unit=nat"), 1.2),
        (("data.max_response_length=16384", "+algorithm.l2t.beta_unit=paper", "algorithm.l2t.beta=0.6"), 1.2),
        ((NO_PENALTY,), 0.0),
    ],
)
def test_the_trainer_has_beta_per_nat(overrides, beta):
    trainer = L2TTrainerSync(config(*overrides))
    assert trainer.l2t.beta == pytest.approx(beta) and trainer.needs_reference is (beta > 0)


def test_a_reward_that_is_nearly_all_penalty_is_said_once(caplog):
    trainer = L2TTrainerSync(config())
    trainer.global_steps = 3
    for share in (float("nan"), 0.5, 0.9):
        trainer._warn_of_penalty(share)
    assert "share" not in caplog.text
    trainer._warn_of_penalty(0.97)
    trainer._warn_of_penalty(0.98)
    (said,) = [record.getMessage() for record in caplog.records if "compression/share" in record.getMessage()]
    assert "is 0.97 at step 3" in said and "lower algorithm.l2t.beta" in said
    free = L2TTrainerSync(config(NO_PENALTY))
    free._warn_of_penalty(1.0)
    assert "1.00" not in caplog.text


# ---- the length cost


def test_the_length_cost_follows_the_token_budget():
    """From the configured one on, and from the credit's own where none is configured."""
    assert L2TTrainerSync(config()).length_cost == LengthCost.fixed(4.0)
    assert L2TTrainerSync(config("algorithm.l2t.credit.method=episode")).length_cost == LengthCost.fixed(0.0)
    overrides = ("+algorithm.l2t.credit.token_budget=10", "+algorithm.l2t.credit.length_cost_rate=0.1")
    overrides += ("+algorithm.l2t.credit.length_cost=0",)
    trainer = L2TTrainerSync(config(*overrides))
    assert trainer.length_cost == LengthCost.fixed(0.0)
    for mean, multiplier, cost in ((20.0, 0.1, 1.1), (None, 0.1, 1.1), (15.0, 0.15, 0.65), (1.0, 0.06, 0.0)):
        trainer._adapt_length_cost(SimpleNamespace(mean_correct_tokens=lambda mean=mean: mean))
        assert (trainer.length_cost.multiplier, trainer.length_cost.value) == pytest.approx((multiplier, cost))
    fixed = L2TTrainerSync(config("+algorithm.l2t.credit.length_cost=0.5"))
    fixed._adapt_length_cost(SimpleNamespace(mean_correct_tokens=lambda: 99.0))
    assert fixed.length_cost == LengthCost.fixed(0.5)


def test_context_length_of_nested_configurations():
    flat = SimpleNamespace(hf_config=SimpleNamespace(max_position_embeddings=128))
    assert settings.context_length(flat) == 128
    inner = SimpleNamespace(max_position_embeddings=64)
    nested = SimpleNamespace(hf_config=SimpleNamespace(get_text_config=lambda: inner))
    assert settings.context_length(nested) == 64
    assert settings.context_length(SimpleNamespace(hf_config=SimpleNamespace())) is None
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}
    scaled = SimpleNamespace(max_position_embeddings=128, rope_parameters=yarn)
    assert settings.context_length(SimpleNamespace(hf_config=scaled)) == 400


# ---- checkpoints


@pytest.mark.parametrize("mode", ["auto", "resume_path"])
def test_the_length_cost_comes_back_from_a_checkpoint(tmp_path, monkeypatch, mode):
    folder = tmp_path / "global_step_7"
    folder.mkdir()
    kept = LengthCost(0.25, 0.375)
    (folder / "l2t_state.json").write_text(json.dumps({"length_cost": asdict(kept), "version": "0"}))
    overrides = (f"trainer.default_local_dir={tmp_path}", f"trainer.resume_mode={mode}")
    path = (f"trainer.resume_from_path={folder}",) if mode == "resume_path" else ()
    trainer = L2TTrainerSync(config(*overrides, *path))
    monkeypatch.setattr(PPOTrainerSync, "_load_checkpoint", lambda self: setattr(self, "global_steps", 7))
    trainer._load_checkpoint()
    assert trainer.length_cost == kept


@pytest.mark.parametrize("method", ["critic", "guided"])
def test_the_critic_goes_on_from_its_checkpoint(tmp_path, monkeypatch, method):
    """What a run that was not interrupted would have: the weights, and the steps that the next fit is made on."""
    chosen = (f"algorithm.l2t.credit.method={method}", f"trainer.default_local_dir={tmp_path}")
    trainer = L2TTrainerSync(config(*chosen))
    ones, index = torch.ones(4, 2), np.array(["a", "a", "b", "b"], dtype=object)

    def inputs(seed, settings=trainer.l2t.credit):
        scores = torch.rand(4, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        rows = (torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.zeros(4, 1), torch.tensor([[0, -1]] * 4), ones, -ones, index)
        return CreditInputs(*rows, settings=settings, scores=scores)

    trainer._teach_critic(inputs(1))
    trainer.global_steps = 7
    monkeypatch.setattr(PPOTrainerSync, "_save_checkpoint", lambda self: None)
    trainer._save_checkpoint()
    resumed = L2TTrainerSync(config(*chosen))
    assert resumed.critic.weights is None
    monkeypatch.setattr(PPOTrainerSync, "_load_checkpoint", lambda self: setattr(self, "global_steps", 7))
    resumed._load_checkpoint()
    for one in (trainer, resumed):
        one._teach_critic(inputs(2))
    assert len(resumed.critic.history) == 2 and torch.equal(resumed.critic.weights, trainer.critic.weights)
    elsewhere = f"trainer.default_local_dir={tmp_path}/other"
    plain = L2TTrainerSync(config("algorithm.l2t.credit.method=episode", elsewhere))
    plain.global_steps = 7
    plain._teach_critic(inputs(1, plain.l2t.credit))
    plain._save_checkpoint()
    assert [file.name for file in (tmp_path / "other" / "global_step_7").iterdir()] == ["l2t_state.json"]


def test_a_fresh_start_keeps_the_configured_length_cost(tmp_path, monkeypatch):
    trainer = L2TTrainerSync(config("+algorithm.l2t.credit.length_cost=0.5", f"trainer.default_local_dir={tmp_path}"))
    monkeypatch.setattr(PPOTrainerSync, "_load_checkpoint", lambda self: setattr(self, "global_steps", 0))
    trainer._load_checkpoint()
    assert trainer.length_cost == LengthCost.fixed(0.5)
