"""What verl's TaskRunner and workers get, wherever and as whomever Ray's nodes were started."""

import shlex
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from recipes import launch, workers
from recipes.environment import driver

VARIABLES = {"VERL_FILE_LOGGER_PATH": "/r/it's/metrics.jsonl", "OMP_NUM_THREADS": "2", "HOME": "/me", "VERL_API_KEY": "x"}


def seen(tmp_path, *overrides, running_ray=True, variables=VARIABLES):
    """The configuration that main_ppo gets with the workers' overrides behind the others."""
    config = launch.composed("gsm8k_3b", list(overrides))
    added = workers.overrides(config, variables, root=tmp_path, python="/v/bin/python", running_ray=running_ray)
    return launch.composed("gsm8k_3b", [*overrides, *added])


def test_paths_are_the_launcher_s_whatever_the_folder_of_the_nodes(tmp_path):
    (tmp_path / "model").mkdir()
    config = seen(tmp_path, "actor_rollout_ref.model.path=model", "trainer.experiment_name=a", "data.val_files=[b.parquet]")
    assert config.trainer.default_local_dir == str(tmp_path / "runs" / "a" / "checkpoints")
    assert config.trainer.rollout_data_dir == str(tmp_path / "runs" / "a" / "rollouts")
    assert config.trainer.validation_data_dir == str(tmp_path / "runs" / "a" / "validation")
    assert config.data.train_files == str(tmp_path / "runs" / "data" / "gsm8k" / "train.parquet")
    assert config.data.val_files == [str(tmp_path / "b.parquet")]
    assert config.actor_rollout_ref.model.path == str(tmp_path / "model")


def test_a_name_on_the_hub_an_absolute_path_and_an_address_stay(tmp_path):
    config = seen(tmp_path, "data.train_files=/d/t.parquet", "data.val_files='hdfs://x/v.parquet'")
    assert config.actor_rollout_ref.model.path == "Qwen/Qwen2.5-3B-Instruct"
    assert config.data.train_files == "/d/t.parquet"
    assert config.data.val_files == "hdfs://x/v.parquet"


def test_interpreter_and_variables_go_by_the_runtime_environment(tmp_path):
    """Merged as verl merges them; no token goes on the command line."""
    from omegaconf import OmegaConf
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    init = seen(tmp_path, "shrink=cpu").ray_kwargs.ray_init
    merged = OmegaConf.to_container(OmegaConf.merge(get_ppo_ray_runtime_env(None), init.runtime_env))
    assert merged["py_executable"] == "/v/bin/python"
    assert merged["env_vars"]["VERL_FILE_LOGGER_PATH"] == "/r/it's/metrics.jsonl"
    assert merged["env_vars"]["OMP_NUM_THREADS"] == "2"  # Ray takes strings only
    assert {"HOME", "VERL_API_KEY"}.isdisjoint(merged["env_vars"])
    assert (init.num_cpus, init.num_gpus) == (None, None)
    assert seen(tmp_path, "shrink=cpu", running_ray=False).ray_kwargs.ray_init.num_cpus == 12


@pytest.mark.parametrize(("words", "address"), [([], None), ([], "192.0.2.1:6379"), (["--launcher", "ray"], None)])
def test_each_way_to_launch_hands_them_over(words, address, monkeypatch, capsys):
    for name in ("RAY_ADDRESS", "VERL_PLATFORM", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(sys, "argv", ["launch", "gsm8k_3b", "grpo", "--dry-run", *words])
    launch.main()
    line = capsys.readouterr().out.split("command:\n")[1].splitlines()[0]
    command = shlex.split(line)
    if words:
        assert "--runtime-env-json" not in line  # Ray refuses to merge two
        command = shlex.split(command[-1])
    given = [word for word in command if "=" in word and not word.startswith("--") and "ray_kwargs" in word]
    (environment,) = [word for word in given if "env_vars" in word]
    value = OverridesParser.create().parse_override(environment).value()
    assert value["TOKENIZERS_PARALLELISM"] == "false"
    # that this machine has no GPU says nothing of the nodes of a Ray that runs elsewhere
    assert ("VERL_PLATFORM" in value) == (not (words or address)) or driver() is not None
    assert value["VERL_FILE_LOGGER_PATH"].startswith(str(launch.ROOT / "runs" / "gsm8k_3b-grpo" / "metrics-"))
    assert f"trainer.default_local_dir='{launch.ROOT}/runs/gsm8k_3b-grpo/checkpoints'" in command
    assert ("++ray_kwargs.ray_init.num_cpus=null" in given) == bool(words or address)
