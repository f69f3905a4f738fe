"""The recipes compose, differ in the reward alone, refuse what would not train, and train."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tiny import write_data, write_model

from recipes import arithmetic
from recipes.checks import problems_of
from recipes.launch import ARMS, RECIPES, composed

ROOT = Path(__file__).parent.parent.resolve()
H100 = 80 * arithmetic.GIB


def run(*arguments: str) -> subprocess.CompletedProcess:
    """A recipe's run.sh in this environment, as a user types it."""
    recipe, *rest = arguments
    venv = {"VENV": str(Path(sys.executable).parents[1])}
    line = ["bash", str(ROOT / "recipes" / recipe / "run.sh"), *rest]
    return subprocess.run(line, env=os.environ | venv, capture_output=True, text=True, timeout=600, check=False)


def leaves(config, prefix: str = "") -> dict[str, object]:
    found = {}
    for key, value in config.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_arm_composes_and_would_train(recipe):
    for arm in ARMS:
        config = composed(recipe, [f"arm={arm}"])
        assert config.reward.reward_manager.name == "l2t"
        assert problems_of(config, H100) == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_arms_differ_in_the_reward_alone(recipe):
    trees = {arm: leaves(OmegaConf.to_container(composed(recipe, [f"arm={arm}"]))) for arm in ARMS}
    for arm, tree in trees.items():
        other = {name for name in tree | trees["grpo"] if tree.get(name) != trees["grpo"].get(name)}
        assert (other != set()) == (arm != "grpo")
        assert {name for name in other if not name.startswith(("algorithm.l2t.", "algorithm.adv_estimator"))} == set()


def test_each_recipe_has_its_files_and_its_line_in_the_table():
    table = (ROOT / "recipes" / "README.md").read_text()
    for recipe in RECIPES:
        assert (ROOT / "recipes" / recipe / "README.md").exists()
        assert f"[`{recipe}`]({recipe})" in table


def test_a_dry_run_needs_neither_weights_nor_data_nor_a_gpu():
    done = run("r1_distill_7b", "l2t_paper", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "checks: passed" in done.stdout
    assert "verl.trainer.main_ppo" in done.stdout
    assert "GiB  margin, updating" in done.stdout


def test_through_ray_the_same_line_is_a_job():
    done = run("gsm8k_3b", "grpo", "--dry-run", "--launcher", "ray", "trainer.nnodes=2")
    assert done.returncode == 0, done.stderr
    assert "ray job submit" in done.stdout
    assert "memory of one GPU of 16" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["l2t-paper"], "there is no arm 'l2t-paper'. Did you mean l2t_paper?"),
        (["l2t", "--gpu", "20"], "a GPU of 20 GiB is too small"),
        (["l2t", "--gpu", "big"], "--gpu big: known are A100-40"),
        (["l2t", "data.train_batch_size=100"], "data.train_batch_size=100 is no multiple of actor.ppo_mini_batch_size=64"),
        (["l2t", "trainer.n_gpus_per_node=7"], "do not divide by 7 GPUs"),
        (["l2t", "data.max_response_length=30000"], "set actor_rollout_ref.rollout.max_model_len=34096"),
        (["l2t", "algorithm.l2t.alpah=1"], "alpah"),
        (["l2t", "+algorithm.l2t.alpah=1"], "algorithm.l2t.alpah"),
        (["l2t", "nosuch.key=1"], "does not compose"),
    ],
)
def test_what_would_not_train_is_refused_with_what_to_set(arguments, expected, capsys, monkeypatch):
    from recipes import launch

    monkeypatch.setattr(sys, "argv", ["launch", "deepscaler_1p5b", *arguments, "--dry-run"])
    with pytest.raises(SystemExit) as refused:
        launch.main()
    assert expected in str(refused.value)


def test_data_that_nobody_can_build_is_named(monkeypatch, tmp_path):
    from recipes import launch

    config = composed("gsm8k_3b", [f"data.train_files={tmp_path / 'nothing.parquet'}"])
    with pytest.raises(SystemExit, match=r"data.train_files=.*nothing.parquet is not there; make it with"):
        launch.make_data(config)


def test_the_arithmetic_knows_the_models_it_names():
    """Parameters as their cards give them, and memory worked out by hand: 16 bytes a parameter over 8 GPUs."""
    published = {"DeepSeek-R1-Distill-Qwen-1.5B": 1.777e9, "DeepSeek-R1-Distill-Qwen-7B": 7.616e9}
    published |= {"DeepSeek-R1-Distill-Qwen-32B": 32.764e9, "Qwen2.5-3B-Instruct": 3.086e9}
    for name, parameters in published.items():
        (model,) = [shape for path, shape in arithmetic.MODELS.items() if path.endswith(name)]
        assert abs(model.parameters - parameters) < 1e6 * 1.5
        plan = arithmetic.Plan(8, H100, 1, 0.5, 20000, 16000, 20000)
        held = arithmetic.memory(model, plan)
        assert held["actor: weights, gradients, AdamW"] == 2 * model.parameters
        assert held["rollout: vLLM"] == held["of it weights"] + held["of it KV cache"] == 40 * arithmetic.GIB


def test_a_local_model_s_shape_is_read(tmp_path):
    folder = write_model(tmp_path / "model")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert arithmetic.shape_of(str(folder)).parameters == sum(p.numel() for p in model.parameters())


def test_the_page_is_what_the_formulas_give():
    assert (ROOT / "recipes" / "SCALE.md").read_text() == arithmetic.page()


@pytest.mark.slow
def test_a_recipe_trains_through_verl_with_a_small_model_in_place_of_its_own(tmp_path):
    """The real configuration; model, data, lengths and device by overrides, as its README says."""
    train, validation = write_data(tmp_path / "data")
    done = run(
        *("deepscaler_1p5b", "l2t", "shrink=cpu"),
        f"actor_rollout_ref.model.path={write_model(tmp_path / 'model')}",
        *(f"data.train_files={train}", f"data.val_files={validation}"),
        f"hydra.run.dir={tmp_path}",
        *(f"trainer.{key}={tmp_path / key}" for key in ("default_local_dir", "rollout_data_dir", "validation_data_dir")),
        f"trainer.experiment_name={os.path.relpath(tmp_path, ROOT / 'runs')}",
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (metrics,) = tmp_path.glob("metrics-*.jsonl")
    assert len(metrics.read_text().splitlines()) == 2
    assert '"l2t/compression/mean"' in metrics.read_text()
    assert (tmp_path / "rollout_data_dir" / "2.jsonl").exists()
