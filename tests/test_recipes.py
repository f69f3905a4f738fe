"""The recipes (`bash recipes/sweep.sh`, each `run.sh`): they compose, differ in the reward alone, refuse and train."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tiny import write_data, write_model

from recipes import arithmetic, launch, run_folder
from recipes.checks import penalty_lines, problems_of
from recipes.launch import ARMS, RECIPES, composed

ROOT = Path(__file__).parent.parent.resolve()
H100 = 80 * arithmetic.GIB


def run(*arguments: str) -> subprocess.CompletedProcess:
    """A recipe's run.sh in this environment, as a user types it."""
    recipe, *rest = arguments
    venv = {"VENV": str(Path(sys.executable).parents[1])}
    line = ["bash", str(ROOT / "recipes" / recipe / "run.sh"), *rest]
    return subprocess.run(line, env=os.environ | venv, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_arm_composes_and_would_train(recipe):
    for arm in ARMS:
        config = composed(recipe, [f"arm={arm}"])
        assert config.reward.reward_manager.name == "l2t"
        assert problems_of(config, H100) == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_arms_differ_in_the_reward_alone(recipe):
    trees = {arm: run_folder.leaves(OmegaConf.to_container(composed(recipe, [f"arm={arm}"]))) for arm in ARMS}
    for arm, tree in trees.items():
        other = {name for name in tree | trees["grpo"] if tree.get(name) != trees["grpo"].get(name)}
        assert (other != set()) == (arm != "grpo")
        assert {name for name in other if not name.startswith(("algorithm.l2t.", "algorithm.adv_estimator"))} == set()


def test_each_recipe_has_its_files_and_its_line_in_the_table():
    table = (ROOT / "recipes" / "README.md").read_text()
    for recipe in RECIPES:
        assert (ROOT / "recipes" / recipe / "README.md").exists()
        assert f"[`{recipe}`]({recipe})" in table


def test_what_the_table_says_was_run_is_on_record():
    runs = json.loads((ROOT / "tests" / "bench" / "results" / "shrunk.json").read_text())["runs"]
    assert all(run["steps"] == 2 for run in runs)
    for recipe in RECIPES:
        (line,) = [line for line in (ROOT / "recipes" / "README.md").read_text().splitlines() if f"({recipe})" in line]
        said = re.search(r"composed; (.*) shrunk-run", line)[1]
        arms = set(ARMS) if said == "all arms" else set(re.findall(r"`(\w+)`", said))
        assert arms == {run["arm"] for run in runs if run["recipe"] == recipe}


def test_a_dry_run_needs_neither_weights_nor_data_nor_a_gpu():
    done = run("r1_distill_7b", "l2t_paper", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "checks: passed" in done.stdout
    assert "verl.trainer.main_ppo" in done.stdout
    assert "GiB  margin, updating" in done.stdout
    assert "penalty: 1.2 J per nat; a response of 16384 tokens costs" in done.stdout
    assert "lower algorithm.l2t.beta=0.6, or set algorithm.l2t.beta_unit=length" in done.stdout


def test_the_penalty_s_share_is_worked_out():
    """A nat of 1,000 tokens costs half of J against gains of 1; nothing where no penalty is trained with."""
    overrides = ("arm=l2t", "data.max_response_length=1000", "algorithm.l2t.beta_unit=nat", "algorithm.l2t.beta=0.5")
    (line,) = penalty_lines(composed("gsm8k_3b", list(overrides)))
    assert "0.5 J per nat" in line and "0.5 J, 33% of the reward" in line and "5 J, 83% of the reward" in line
    # in the default's unit a longer limit changes nothing
    long, short = (
        penalty_lines(composed("gsm8k_3b", ["arm=l2t", f"data.max_response_length={n}"]))[0] for n in (150, 16384)
    )
    assert re.findall(r"\d+%", long) == re.findall(r"\d+%", short) == ["15%", "64%"]
    for arm in ("grpo", "length_penalty", "gain_only", "mrt"):
        assert penalty_lines(composed("gsm8k_3b", [f"arm={arm}"])) == []


def test_through_ray_the_same_line_is_a_job(tmp_path, monkeypatch):
    done = run("gsm8k_3b", "grpo", "--dry-run", "--launcher", "ray", "trainer.nnodes=2")
    assert done.returncode == 0, done.stderr
    assert "bin/ray job submit" in done.stdout
    assert "memory of one GPU of 16" in done.stdout
    # the environment's own `ray`, whatever the PATH says; here one that only does what the job would
    (tmp_path / "ray").write_text(
        f"#!{sys.executable}\nimport os, sys\nos.execvp('sh', sys.argv[sys.argv.index('--') + 1 :])\n"
    )
    (tmp_path / "ray").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    line = launch.through_ray(["echo", "a b", "'c'=$D"], {"A": "1"})
    found = subprocess.run(line, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True)
    assert found.stdout == "a b 'c'=$D\n"


def commands() -> list[list[str]]:
    """What the recipes' pages tell to type, but for those lines that name what only the reader has."""
    pages = [file.read_text() for recipe in RECIPES for file in (ROOT / "recipes" / recipe).glob("README.md")]
    lines = [line for page in pages for line in page.splitlines() if re.match(r"bash recipes/\w+/run\.sh", line)]
    assert len(lines) >= 4 * len(RECIPES)
    return [shlex.split(line, comments=True)[1:] for line in lines if "SMALL_MODEL" not in line]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_each_command_of_the_pages_would_train(words, monkeypatch, capsys):
    recipe = Path(words[0]).parent.name
    monkeypatch.setattr(sys, "argv", ["launch", recipe, *words[1:], "--dry-run"])
    launch.main()
    assert "checks: passed" in capsys.readouterr().out


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
        (["l2t", "actor_rollout_ref.rollout.tensor_model_parallel_size=8"], "does not divide the model's 12 heads"),
        (["l2t", "shrink=offload", "--gpu", "24"], "GiB are missing (updating); lower actor.ppo_max_token_len_per_gpu"),
    ],
)
def test_what_would_not_train_is_refused_with_what_to_set(arguments, expected, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["launch", "deepscaler_1p5b", *arguments, "--dry-run"])
    with pytest.raises(SystemExit) as refused:
        launch.main()
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("word", "said"), [("--dryrun", "there is no option --dryrun"), ("arm=mrt", "the arm is the second word")]
)
def test_what_is_no_override_is_named(word, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["launch", "gsm8k_3b", "grpo", word])
    with pytest.raises(SystemExit):
        launch.main()
    assert said in capsys.readouterr().err


def test_data_that_nobody_can_build_is_named(monkeypatch, tmp_path):
    config = composed("gsm8k_3b", [f"data.train_files={tmp_path / 'nothing.parquet'}"])
    with pytest.raises(SystemExit, match=r"data.train_files=.*nothing.parquet is not there; make it with"):
        launch.make_data(config)


def test_data_that_was_built_without_its_validation_problems_is_not_built_over(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/data/aime_919")
    folder.mkdir(parents=True)
    for name in ("train.parquet", "manifest.json"):
        (folder / name).write_text("mine")
    with pytest.raises(SystemExit, match=r"validation\.parquet is not there, though .*--against aime24 .*NAME=PATH"):
        launch.make_data(composed("deepscaler_1p5b", []))
    assert (folder / "train.parquet").read_text() == "mine"


@pytest.mark.parametrize(
    ("opens", "made", "said"),
    [
        (True, True, None),
        (False, False, None),
        (False, None, None),  # built without --tokenizer: for templates that open nothing
        (
            True,
            None,
            "opens <think>, and the prompt in .* asks for it again; build it again: python -m l2t_verl.data aime_919",
        ),
        (False, True, "does not open <think>, and the prompt in .* takes it for open"),
    ],
)
def test_prompts_for_another_chat_template_are_refused(opens, made, said, tmp_path):
    from transformers import AutoTokenizer

    folder = write_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{{ messages[0].content }}" + "<think>\n" * opens
    tokenizer.save_pretrained(folder)
    manifest = {"instruction": "Think between <think> and </think>.", "prompt opens <think>": made, "data set": "aime_919"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    if said is None:
        launch.check_prompts(tmp_path, str(folder))
    else:
        with pytest.raises(SystemExit, match=said):
            launch.check_prompts(tmp_path, str(folder))


def test_attention_that_is_not_installed_is_asked_for_before_anything_starts(monkeypatch):
    sdpa = "+actor_rollout_ref.model.override_config.attn_implementation=sdpa"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install flash-attn" in launch.attention_problem(composed("gsm8k_3b", []))
    assert sdpa in launch.attention_problem(composed("gsm8k_3b", []))
    assert launch.attention_problem(composed("gsm8k_3b", [sdpa])) is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "flash_attn")
    assert launch.attention_problem(composed("gsm8k_3b", [])) is None


def test_checkpoints_of_other_settings_are_not_gone_on_from(tmp_path):
    def config(*overrides):
        return composed("gsm8k_3b", [f"trainer.default_local_dir={tmp_path / 'checkpoints'}", *overrides])

    assert run_folder.differences(config(), tmp_path) == []
    run_folder.keep(config(), tmp_path)
    other = config("actor_rollout_ref.actor.optim.lr=1e-5")
    assert run_folder.differences(other, tmp_path) == []  # nothing was trained yet
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("10")
    assert run_folder.differences(config("trainer.total_epochs=20", "trainer.logger=[console]"), tmp_path) == []
    (said,) = run_folder.differences(other, tmp_path)
    assert "actor_rollout_ref.actor.optim.lr: 1e-06 there, 1e-05 now" in said
    assert said.count(" there, ") == 1
    assert "trainer.experiment_name" in said


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


def test_a_sweep_checks_all_arms_before_any_is_trained():
    done = sweep("gsm8k_3b", "--dry-run", ARMS="grpo mrt")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checks: passed") == 2
    refused = sweep("gsm8k_3b", "data.train_batch_size=100", ARMS="grpo")
    assert refused.returncode != 0
    assert "no multiple of actor.ppo_mini_batch_size" in refused.stderr
    assert not (ROOT / "runs" / "gsm8k_3b-grpo").exists()
    assert "names its arms' runs itself" in sweep("gsm8k_3b", "trainer.experiment_name=mine").stderr
    assert "Did you mean gsm8k_3b?" in sweep("gsm8k").stderr


def test_slurm_starts_ray_on_each_node_and_the_launcher_on_the_first(tmp_path):
    """No Slurm here: `srun` and `scontrol` only write down what they are asked; the rest is the script's."""
    calls = tmp_path / "calls"
    srun = f'#!/bin/sh\necho "$@" >> {calls}\ncase "$*" in *hostname*) echo 192.0.2.1 ;; esac\n'
    scripts = {"srun": srun, "scontrol": "#!/bin/sh\nprintf 'n1\\nn2\\n'\n"}
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[1-2]"}
    job["SLURM_CPUS_ON_NODE"] = "96"
    variables = os.environ | job | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "VENV": str(Path(sys.executable).parents[1])}
    line = ["bash", str(ROOT / "recipes" / "slurm.sh"), "r1_distill_7b", "l2t", "data.seed=1"]
    done = subprocess.run(line, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "memory of one GPU of 16" in done.stdout
    text = calls.read_text()
    assert "-w n1" in text.split("ray start --head --node-ip-address=192.0.2.1 --port=6379")[0].splitlines()[-1]
    assert "-w n2" in text.split("ray start --address 192.0.2.1:6379")[0].splitlines()[-1]
    assert "launch.sh r1_distill_7b l2t trainer.nnodes=2 trainer.n_gpus_per_node=8 data.seed=1" in text


def sweep(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    venv = {"VENV": str(Path(sys.executable).parents[1])}
    line = ["bash", str(ROOT / "recipes" / "sweep.sh"), *arguments]
    return subprocess.run(line, env=os.environ | venv | variables, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.slow
def test_a_sweep_trains_evaluates_and_compares(tmp_path):
    """The real configuration; model, data, lengths and device by overrides, as the recipe's README says."""
    train, validation = write_data(tmp_path / "data")
    runs = [ROOT / "runs" / f"gsm8k_3b-{name}" for name in ("grpo", "l2t_paper", "sweep")]
    assert not any(run.exists() for run in runs), f"{runs} are somebody's: this test would write there"
    problems = [{"question": f"{i}+1?", "answer": f"#### {i + 1}"} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    try:
        done = sweep(
            *("gsm8k_3b", "shrink=cpu", f"actor_rollout_ref.model.path={write_model(tmp_path / 'model')}"),
            *(f"data.train_files={train}", f"data.val_files={validation}", "trainer.save_freq=2"),
            ARMS="grpo l2t_paper",
            BENCHMARKS=f"gsm8k_test={tmp_path / 'rows.jsonl'}",
            EVALUATE="--samples 2 --max-tokens 20 --max-model-len 512 --instruction none --budget 5",
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        again = sweep("gsm8k_3b", "shrink=cpu", "data.seed=7", ARMS="grpo l2t_paper")  # nothing is trained: other settings
        assert "has checkpoints made with other settings" in again.stderr
        for run in runs[:2]:
            (metrics,) = run.glob("metrics-*.jsonl")
            assert len(metrics.read_text().splitlines()) == 2
            assert '"l2t/compression/mean"' in metrics.read_text()
            assert (run / "rollouts" / "2.jsonl").exists()
        table = (runs[2] / "compare.md").read_text()
        assert "| gsm8k_test | grpo | 3 |" in table
        assert "| gsm8k_test | l2t_paper | 3 |" in table
        merged = next((runs[2] / "l2t_paper" / "merged").iterdir())  # FSDP shards, by verl's merger
        assert (merged / "model.safetensors").exists()
    finally:
        for run in runs:
            shutil.rmtree(run, ignore_errors=True)
