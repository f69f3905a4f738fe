"""The checks at the start, on verl's own composed configuration: the quickstart's, with what a user changes."""

import copy
import logging
from functools import cache

import pytest
from cluster import composed
from datasets import Dataset
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf, open_dict
from tiny import byte_tokenizer
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
from verl.utils.config import validate_config

from l2t_verl.config import ConfigError, L2TConfig
from l2t_verl.plugin import settings
from l2t_verl.plugin.driver import changes, refusals
from l2t_verl.plugin.driver import data as data_checks

REWARD_MODEL = ["reward.reward_model.enable=True"]
RESOURCE_POOL = ["reward.reward_model.enable_resource_pool=True"]
CUSTOM = ["reward.custom_reward_function.path=reward.py"]


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch):
    """What is refused on the CPU platform alone has its own test."""
    monkeypatch.delenv("VERL_PLATFORM")


@cache
def composed_once(name: str) -> DictConfig:
    """Composing takes half a second, so it is done once for each of the two."""
    if name == "quickstart":
        return composed()
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(name)


def changed(*overrides: str, name: str = "quickstart") -> DictConfig:
    """The quickstart's configuration, or verl's own, with overrides."""
    config = copy.deepcopy(composed_once(name))
    OmegaConf.set_struct(config, False)
    config.merge_with_dotlist(list(overrides))
    OmegaConf.set_struct(config, True)
    return config


def check(*overrides: str) -> None:
    config = changed(*overrides)
    refusals.check_verl_config(config, settings.read_config(config))


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# ---- algorithm.l2t


@pytest.mark.parametrize("platform", ["cpu", ""])
def test_the_quickstart_itself_passes(caplog, monkeypatch, platform):
    monkeypatch.setenv("VERL_PLATFORM", platform)
    check()
    assert warnings(caplog) == []


def test_the_drop_in_line_passes(caplog):
    """What a stranger adds to an existing run; everything else is verl's default."""
    config = changed(
        "trainer.v1.trainer_mode=l2t_sync",
        "algorithm.adv_estimator=l2t",
        "reward.reward_manager.name=l2t",
        "algorithm.l2t.alpha=0.5",
        name="ppo_trainer",
    )
    l2t = settings.read_config(config)
    assert l2t == L2TConfig(alpha=0.5)
    refusals.check_verl_config(config, l2t)
    assert warnings(caplog) == []


def test_without_a_node_everything_is_default():
    assert settings.read_config(changed(name="ppo_trainer")) == L2TConfig()
    assert settings.read_config(changed("algorithm.l2t=null", name="ppo_trainer")) == L2TConfig()


def test_the_node_is_read_as_hydra_means_it():
    """Interpolations and lists are resolved; the rest of the quickstart's node is kept."""
    price = "algorithm.l2t.credit.length_cost=${actor_rollout_ref.rollout.temperature}"
    l2t = settings.read_config(changed(price, "algorithm.l2t.episodes.answer_markers=['####', 'answer:']"))
    assert l2t.credit.length_cost == 1.0
    assert l2t.episodes.answer_markers == ("####", "answer:")
    written = composed_once("quickstart").algorithm.l2t
    assert (l2t.episodes.method, l2t.gain.forcing_suffix) == (written.episodes.method, written.gain.forcing_suffix)


def test_all_problems_of_the_node_come_in_one_message():
    with pytest.raises(ConfigError) as error:
        settings.read_config(changed("algorithm.l2t.alpha=-1", "algorithm.l2t.gain.suffix=x"))
    for part in ("2 problems", "algorithm.l2t.alpha: ", "algorithm.l2t.gain.suffix: unknown key"):
        assert part in str(error.value)


@pytest.mark.parametrize("value", ["0.8", "[0.8]", "paper"])
def test_a_node_that_is_no_mapping_is_refused(value):
    with pytest.raises(ConfigError, match=r"algorithm\.l2t"):
        settings.read_config(changed(f"algorithm.l2t={value}", name="ppo_trainer"))


# ---- the rest of verl's configuration

SEPARATE = [
    "trainer.v1.trainer_mode=l2t_separate_async",
    "actor_rollout_ref.rollout.nnodes=1",
    "actor_rollout_ref.rollout.n_gpus_per_node=1",
    "actor_rollout_ref.rollout.checkpoint_engine.backend=nccl",
]
REFUSED = {
    "another reward manager": (
        ["reward.reward_manager.name=naive"],
        "set reward.reward_manager.name=l2t reward.reward_manager.source=register",
    ),
    "a reward manager of that name from elsewhere": (
        ["reward.reward_manager.source=importlib"],
        "set reward.reward_manager.name=l2t reward.reward_manager.source=register",
    ),
    "a colocated reward model": (REWARD_MODEL, "reward.reward_model.enable=True by-passes the reward manager"),
    "a reward model on its own without a function": (
        [*REWARD_MODEL, *RESOURCE_POOL],
        "use it from a reward.custom_reward_function.path",
    ),
    "a reward function without the model's own pool": (
        [*REWARD_MODEL, *CUSTOM],
        "with reward.reward_model.enable_resource_pool=True",
    ),
    "no hybrid engine": (
        ["actor_rollout_ref.hybrid_engine=False"],
        "actor_rollout_ref.hybrid_engine=False works with l2t_separate_async only; set it to True",
    ),
    "parameters of another engine": (
        ["actor_rollout_ref.actor.strategy=megatron"],
        "algorithm.l2t.diagnostics.compare_grpo, algorithm.l2t.diagnostics.displacement: reads the parameters of an FSDP2 "
        "engine, but actor_rollout_ref.actor.strategy=megatron; set it to False, or the strategy to fsdp2",
    ),
    "no hybrid engine, with verl's own mistake": (
        [*SEPARATE, "actor_rollout_ref.hybrid_engine=False"],
        "set VERL_LOGGING_LEVEL=WARN in the environment",
    ),
    "rollouts of older weights without their log-probs": (
        ["trainer.v1.trainer_mode=l2t_colocate_async", "actor_rollout_ref.rollout.calculate_log_probs=False"],
        "count by the log-probs that they were sampled with: set actor_rollout_ref.rollout.calculate_log_probs=True",
    ),
    "one forward for what verl does not compute": (
        ["algorithm.l2t.gain.fused=True", "algorithm.rollout_correction.bypass_mode=True"],
        "algorithm.l2t.gain.fused=True: verl's bypass mode computes no old log-probs; leave it at null",
    ),
    "packed rows on an engine that splits sequences": (
        [
            "algorithm.l2t.gain.backend=packed",
            "actor_rollout_ref.actor.ulysses_sequence_parallel_size=2",
            "actor_rollout_ref.model.override_config.attn_implementation=flash_attention_2",
        ],
        "algorithm.l2t.gain.backend=packed: Ulysses splits the sequence over ranks, so rows cannot be packed",
    ),
    "a shift of parameters that are no matrices": (
        [
            "actor_rollout_ref.actor.strategy=fsdp",
            "algorithm.l2t.compression.estimator=directional",
            "algorithm.l2t.diagnostics.compare_grpo=False",
            "algorithm.l2t.diagnostics.displacement=False",
        ],
        "shifts the parameters of an FSDP2 engine, but actor_rollout_ref.actor.strategy=fsdp; set it to fsdp2",
    ),
    "log-probs of the likely words only, where they should tell rounding from the penalty": (
        ["algorithm.l2t.compression.rounding_correction=True", "actor_rollout_ref.rollout.top_p=0.9"],
        "actor_rollout_ref.rollout.top_p=0.9: the rollout engine's log-probs are then not the actor's, and rounding "
        "cannot be told from the penalty; set it to 1, or algorithm.l2t.beta=0; "
        "algorithm.l2t.compression.rounding_correction=False",
    ),
    "gradients of several ranks": (
        ["trainer.n_gpus_per_node=2", "algorithm.l2t.compression.estimator=exact"],
        "estimator=exact works on one rank only, but there are 2",
    ),
    "a budget that no response can exceed": (
        ["data.max_response_length=160", "algorithm.l2t.credit.token_budget=161"],
        "algorithm.l2t.credit.token_budget=161.0 is above data.max_response_length=160; no response can exceed it",
    ),
}


@pytest.mark.parametrize(("overrides", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(overrides, message):
    """One problem alone: the message has its line and no other."""
    with pytest.raises(ConfigError) as error:
        check(*overrides)
    first, *lines = str(error.value).splitlines()
    assert first == "L2T cannot train with this configuration:"
    assert len(lines) == 1
    assert message in lines[0]


@pytest.mark.parametrize("strategy", ["fsdp", "megatron"])
def test_refused_without_a_gpu(monkeypatch, strategy):
    without = ["algorithm.l2t.diagnostics.compare_grpo=False", "algorithm.l2t.diagnostics.displacement=False"]
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    with pytest.raises(ConfigError, match=rf"actor\.strategy={strategy} needs a GPU .*; set it to fsdp2"):
        check(f"actor_rollout_ref.actor.strategy={strategy}", *without)


def test_all_refusals_come_in_one_message():
    chosen = ["another reward manager", "a colocated reward model", "no hybrid engine", "parameters of another engine"]
    with pytest.raises(ConfigError) as error:
        check(*(override for name in chosen for override in REFUSED[name][0]), "algorithm.l2t.credit.token_budget=999")
    _, *lines = str(error.value).splitlines()
    assert len(lines) == 5
    for name, line in zip(chosen, lines, strict=False):
        assert REFUSED[name][1] in line
    assert "token_budget" in lines[-1]


ALLOWED = {
    "a reward model behind a function": [*REWARD_MODEL, *RESOURCE_POOL, *CUSTOM],
    "a reward function": CUSTOM,
    "another engine without its parameters": [
        "actor_rollout_ref.actor.strategy=megatron",
        "algorithm.l2t.diagnostics.compare_grpo=False",
        "algorithm.l2t.diagnostics.displacement=False",
    ],
    "fsdp": [
        "actor_rollout_ref.actor.strategy=fsdp",
        "algorithm.l2t.diagnostics.compare_grpo=False",
        "algorithm.l2t.diagnostics.displacement=False",
    ],
    "the largest budget": ["data.max_response_length=160", "algorithm.l2t.credit.token_budget=160"],
    "a reference in the loss": ["actor_rollout_ref.actor.use_kl_loss=True"],
    "a reference in the reward": ["algorithm.use_kl_in_reward=True"],
    "LoRA": ["actor_rollout_ref.model.lora_rank=8", "algorithm.l2t.diagnostics.displacement=False"],
    "likely words only in float32": ["actor_rollout_ref.rollout.top_p=0.9"],
    "one rollout": ["actor_rollout_ref.rollout.n=1"],
}


@pytest.mark.parametrize("overrides", ALLOWED.values(), ids=ALLOWED)
def test_allowed(caplog, overrides):
    check(*overrides)
    assert warnings(caplog) == []


WARNED = {
    "filter_groups": (
        ["algorithm.filter_groups.enable=True", "algorithm.filter_groups.metric=acc"],
        "Set algorithm.filter_groups.enable=False",
    ),
    "another estimator": (["algorithm.adv_estimator=grpo"], "algorithm.adv_estimator=grpo: L2T's rewards are measured"),
    "no reference beside the actor": (["actor_rollout_ref.model.lora_rank=8"], "displacement will be NaN"),
    "no reference at all": (["algorithm.l2t.beta=0"], "displacement will be NaN"),
    "no weight": (["algorithm.l2t.alpha=0"], "algorithm.l2t.alpha=0: the process reward has no weight"),
}


@pytest.mark.parametrize(("overrides", "message"), WARNED.values(), ids=WARNED)
def test_warned(caplog, overrides, message):
    """It trains, and says once what is probably not meant."""
    check(*overrides)
    found = warnings(caplog)
    assert len(found) == 1
    assert message in found[0]


def test_what_is_switched_off_warns_of_nothing(caplog):
    check("algorithm.filter_groups.enable=False")
    assert warnings(caplog) == []


# ---- data (see test_trainer.py for verl's own datasets)


def test_a_dataset_without_rows_to_look_at_is_a_warning(caplog):
    config = changed()
    data_checks.check_data({"data.train_files": object()}, config, settings.read_config(config), None, 1024)
    assert warnings(caplog) == ["data.train_files: object has no dataframe; its rows are not checked"]


def test_data_is_looked_at_in_one_go():
    """Rows of both sets, each with its option; the first rows of many are named."""
    config = changed("data.max_prompt_length=256")

    def rows(*truths):
        return type("Rows", (), {"dataframe": Dataset.from_dict({"reward_model": [{"ground_truth": t} for t in truths]})})

    data = {"data.train_files": rows("7", *[None] * 7), "data.val_files": rows("7", " ")}
    with pytest.raises(ConfigError) as error:
        data_checks.check_data(data, config, settings.read_config(config), byte_tokenizer(), 100)
    _, *lines = str(error.value).splitlines()
    assert [line.strip() for line in lines] == [
        "data.train_files: 7 of 8 rows have no ground truth (rows 1, 2, 3, 4, 5, …); fill reward_model.ground_truth or "
        "drop them",
        "data.val_files: 1 of 2 rows have no ground truth (rows 1); fill reward_model.ground_truth or drop them",
        "data.max_prompt_length=256 leaves no room for a response: the model has 100 positions",
    ]
    no_column = type("Rows", (), {"dataframe": Dataset.from_dict({"prompt": ["a", "b"]})})
    with pytest.raises(ConfigError, match=r"2 of 2 rows have no ground truth \(rows 0, 1\)"):
        data_checks.check_data({"data.train_files": no_column}, config, settings.read_config(config), byte_tokenizer(), None)


def test_truths_that_are_taken_out_of_what_stands_around_them_are_counted(caplog):
    """J is of `98`, whatever the file writes: the start says so, once for each file."""
    config = changed()
    truths = [{"ground_truth": text} for text in ("98", "\\[ 97 \\]", "\\boxed{5}", "3 + 4 = 7\n#### 7")]
    data = type("Rows", (), {"dataframe": Dataset.from_dict({"reward_model": truths})})
    data_checks.check_data({"data.train_files": data}, config, settings.read_config(config), byte_tokenizer(), None)
    assert warnings(caplog) == [
        "data.train_files: 3 truths of 4 rows are taken out of what stands around them, the first: '\\\\[ 97 \\\\]' is "
        "read as '97'"
    ]


@pytest.mark.parametrize(
    ("source", "gain", "refused"),
    [
        ("openai/gsm8k", {}, True),  # verl's scorer reads what stands after ####
        ("openai/gsm8k", {"forcing_suffix": "\n#### ", "closing": "\n"}, False),
        ("l2t/sums", {"forcing_suffix": "\n\nThe final answer is \\boxed{", "closing": "}"}, False),
        ("l2t/sums", {"forcing_suffix": "\n\nThe final answer is \\boxed{", "closing": "5}"}, True),
    ],
)
def test_a_right_answer_has_to_be_graded_as_right_when_it_is_forced(source, gain, refused):
    """Else every sampled answer would score 0, and nobody would know why."""
    config = changed("algorithm.l2t.gain.kind=monte_carlo")
    with open_dict(config):
        config.algorithm.l2t.gain.update(gain or {"forcing_suffix": "\\boxed{", "closing": "}"})
    rows = [{"ground_truth": "72"}, {"ground_truth": "7"}]
    data = type("Rows", (), {"dataframe": Dataset.from_dict({"reward_model": rows, "data_source": [source] * 2})})
    arguments = ({"data.train_files": data}, config, settings.read_config(config), byte_tokenizer(), None)
    if refused:
        with pytest.raises(ConfigError, match=f"data source {source}: .* grades the right answer as wrong"):
            data_checks.check_data(*arguments)
    else:
        data_checks.check_data(*arguments)


# ---- the reference policy's configuration


def reference(*overrides: str) -> dict:
    """Its settings of the log-probs, before and after."""
    config = changed("actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=7", *overrides)
    before = OmegaConf.to_container(config.actor_rollout_ref.ref, resolve=True)
    changes.provide_reference_config(config)
    after = OmegaConf.to_container(config.actor_rollout_ref.ref, resolve=True)
    return {key: value for key, value in after.items() if before.get(key) != value}


def test_the_reference_gets_the_actors_batch_size_where_it_has_none():
    assert reference() == {"log_prob_micro_batch_size_per_gpu": 7}


@pytest.mark.parametrize("key", ["log_prob_micro_batch_size_per_gpu", "log_prob_micro_batch_size"])
def test_a_batch_size_that_is_set_stays(key):
    assert reference(f"actor_rollout_ref.ref.{key}=3") == {}


def test_the_reference_follows_a_dynamic_batch():
    """verl couples the two by interpolation; where they come apart, the rollout's setting is the actor's."""
    dynamic = ["actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True"]
    lengths = ["actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=777"]
    apart = ["actor_rollout_ref.ref.log_prob_use_dynamic_bsz=False"]
    batch = {"log_prob_micro_batch_size_per_gpu": 7}
    expected = batch | {"log_prob_use_dynamic_bsz": True, "log_prob_max_token_len_per_gpu": 777}
    assert reference(*dynamic, *lengths, *apart) == expected
    assert reference(*lengths, *apart) == batch
    own = [*dynamic, *lengths, "actor_rollout_ref.ref.log_prob_use_dynamic_bsz=True"]
    assert reference(*own, "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu=99") == batch


def test_the_provided_configuration_is_one_that_verl_takes():
    """verl's own check of the whole, which asks for a batch size once there is a reference."""

    def validated(config):
        validate_config(config=config, use_reference_policy=True, use_critic=False)

    overrides = ["actor_rollout_ref.model.path=nowhere", "actor_rollout_ref.actor.use_kl_loss=True"]
    with pytest.raises(ValueError, match="log_prob_micro_batch_size"):
        validated(changed(*overrides))
    config = changed(*overrides)
    changes.provide_reference_config(config)
    validated(config)


# ---- versions and names


def test_versions_have_to_agree():
    refusals.check_versions([], "1.0")
    refusals.check_versions(["1.0", "1.0"], "1.0")
    with pytest.raises(RuntimeError, match=r"l2t_verl 1\.0 runs in the trainer, but 0\.8, 0\.9 on a worker's node"):
        refusals.check_versions(["0.9", "1.0", "0.8", "0.9"], "1.0")


@pytest.mark.parametrize(
    ("name", "base"),
    [("l2t_sync", "sync"), ("l2t_colocate_async", "colocate_async"), ("sync", "sync"), ("my_l2t_sync", "my_l2t_sync")],
)
def test_base_mode(name, base):
    assert settings.base_mode(name) == base


def test_the_base_mode_is_one_of_verls():
    assert settings.base_mode(changed().trainer.v1.trainer_mode) in TRAINER_REGISTRY
