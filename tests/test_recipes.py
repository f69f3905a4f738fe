"""The recipes (`bash recipes/sweep.sh`, each `run.sh`): they compose, differ in the reward alone, refuse and train."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tiny import qwen2, read_jsonl, write_data, write_model
from verl.utils import torch_functional
from verl.utils.torch_functional import get_cosine_schedule_with_warmup

from recipes import arithmetic, launch, run_folder
from recipes.checks import penalty_lines, plan_of, problems_of
from recipes.launch import ARMS, RECIPES, composed

ROOT = Path(__file__).parent.parent.resolve()
H100 = 80 * arithmetic.GIB


def run(*arguments: str) -> subprocess.CompletedProcess:
    """A recipe's run.sh in this environment, as a user types it."""
    recipe, *rest = arguments
    venv = {"VENV": str(Path(sys.executable).parents[1])}
    line = ["bash", str(ROOT / "recipes" / recipe / "run.sh"), *rest]
    return subprocess.run(line, env=os.environ | venv, capture_output=True, text=True, timeout=600, check=False)


BESIDE = {  # what belongs to an arm that is not its reward
    "dr_grpo": {
        "algorithm.norm_adv_by_std_in_grpo",
        "actor_rollout_ref.actor.loss_agg_mode",
        "actor_rollout_ref.actor.loss_scale_factor",
    },
    "dler": {"actor_rollout_ref.actor.clip_ratio_high"},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_arm_would_train_and_differs_in_the_reward_alone(recipe):
    configs = {arm: composed(recipe, [f"arm={arm}"]) for arm in ARMS}
    for config in configs.values():
        assert config.reward.reward_manager.name == "l2t"
        assert problems_of(config, H100) == []
    trees = {arm: run_folder.leaves(OmegaConf.to_container(config)) for arm, config in configs.items()}
    for arm, tree in trees.items():
        other = {name for name in tree | trees["grpo"] if tree.get(name) != trees["grpo"].get(name)}
        assert (other != set()) == (arm != "grpo")
        beside = {name for name in other if not name.startswith(("algorithm.l2t.", "algorithm.adv_estimator"))}
        assert beside == BESIDE.get(arm, set())


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
        said = re.search(r"composed; (.*) shrunk-run", line)[1]  # "not": none
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
    ("words", "said"),
    [
        (["grpo", "--dryrun"], "there is no option --dryrun"),
        (["grpo", "arm=mrt"], "the arm is the second word"),
        (["grpo,mrt"], "only a dry run takes several arms; bash recipes/sweep.sh gsm8k_3b trains them"),
    ],
)
def test_what_a_line_cannot_hold_is_named(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["launch", "gsm8k_3b", *words])
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


def test_the_marks_of_the_thought_go_on_to_the_data(monkeypatch, tmp_path):
    """Else the prompt would ask for <think>, and what is cut and graded would be another thing."""
    monkeypatch.chdir(tmp_path)
    built = []
    monkeypatch.setattr("subprocess.run", lambda line, check: built.append(line) or type("Done", (), {"returncode": 0}))
    marks = ["+algorithm.l2t.gain.think_open='[THINK]'", "+algorithm.l2t.gain.think_close='\n[/THINK]'"]
    launch.make_data(composed("deepscaler_1p5b", marks))
    launch.make_data(composed("deepscaler_1p5b", []))
    assert built[0][-2:] == ["--think-open=[THINK]", "--think-close=[/THINK]"]
    assert not any("think" in word for word in built[1])
    manifest = {
        "instruction": "Think between <think> and </think>.", "marks of the thought": ["<think>", "</think>"],
        "data set": "aime_919",
    }  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SystemExit, match=r"between <think> and </think>, but .* are \[THINK\] .*--think-open=\[THINK\]"):
        launch.check_prompts(tmp_path, "model", launch.Marks("[THINK]", "[/THINK]"))


def test_attention_that_is_not_installed_is_asked_for_before_anything_starts(monkeypatch):
    sdpa = "+actor_rollout_ref.model.override_config.attn_implementation=sdpa"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install flash-attn" in launch.attention_problem(composed("gsm8k_3b", []))
    assert sdpa in launch.attention_problem(composed("gsm8k_3b", []))
    assert "use_remove_padding" not in launch.attention_problem(
        composed("gsm8k_3b", [])
    )  # padding would nearly double tokens
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
    assert run_folder.differences(config("trainer.save_freq=5", "trainer.logger=[console]"), tmp_path) == []
    (said,) = run_folder.differences(other, tmp_path)
    assert "actor_rollout_ref.actor.optim.lr: 1e-06 there, 1e-05 now" in said
    assert said.count(" there, ") == 1
    assert "trainer.experiment_name" in said


@pytest.fixture
def kept(tmp_path):
    """Asks whether a run of gsm8k_3b that has checkpoints may be gone on with under overrides."""
    folder = tmp_path / "checkpoints"
    config = lambda *overrides: composed("gsm8k_3b", [f"trainer.default_local_dir={folder}", *overrides])  # noqa: E731
    run_folder.keep(config(), tmp_path)
    folder.mkdir()
    (folder / "latest_checkpointed_iteration.txt").write_text("10")
    return lambda *overrides: run_folder.differences(config(*overrides), tmp_path)


@pytest.mark.parametrize(
    "override",
    [
        "actor_rollout_ref.rollout.gpu_memory_utilization=0.4",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=4096",
        "actor_rollout_ref.rollout.tensor_model_parallel_size=2",
        "actor_rollout_ref.rollout.max_num_seqs=64",
        "actor_rollout_ref.model.enable_activation_offload=True",
        "algorithm.l2t.checkpoints.keep_last=1",
        "+algorithm.l2t.gain.max_tokens_per_micro_batch=8192",
        "shrink=offload",
    ],
)
def test_after_running_out_of_memory_a_run_goes_on_with_less(kept, override):
    assert kept(override) == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.total_epochs=2", "trainer.total_epochs: 1 there, 2 now"),  # it would bend the cosine
        ("trainer.total_training_steps=9", "trainer.total_training_steps: None there, 9 now"),
        (
            "trainer.n_gpus_per_node=4",
            "GPUs (trainer.nnodes × trainer.n_gpus_per_node): 8 there, 4 now",
        ),  # shards of eight ranks
        ("trainer.nnodes=2", "GPUs (trainer.nnodes × trainer.n_gpus_per_node): 8 there, 16 now"),
        ("trainer.v1.trainer_mode=l2t_colocate_async", "trainer.v1.trainer_mode: l2t_sync there"),
        ("actor_rollout_ref.actor.ppo_mini_batch_size=32", "ppo_mini_batch_size: 64 there, 32 now"),
        ("actor_rollout_ref.rollout.n=4", "actor_rollout_ref.rollout.n: 5 there, 4 now"),
    ],
)
def test_what_makes_another_run_of_it_is_refused(kept, override, said):
    (text,) = kept(override)
    assert said in text


def test_the_same_gpus_may_lie_on_other_nodes(kept):
    assert kept("trainer.nnodes=2", "trainer.n_gpus_per_node=4") == []


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


def test_the_old_log_probs_logits_decide_on_small_cards(monkeypatch, capsys):
    """By hand: 20,608 tokens × 151,936 words × (2 + 2 + 4 + 4) bytes are 35 GiB, more than an A100 of 40 GB has left."""
    words = ["launch", "r1_distill_1p5b", "l2t", "--dry-run", "--gpu", "A100-40"]
    words += [
        "actor_rollout_ref.rollout.gpu_memory_utilization=0.5",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=20608",
    ]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match=r"are missing \(old log-probs\); set .*entropy_from_logits_with_chunking=True"):
        launch.main()
    monkeypatch.setattr(sys, "argv", [*words, "actor_rollout_ref.actor.entropy_from_logits_with_chunking=True"])
    launch.main()
    assert "checks: passed" in capsys.readouterr().out
    model = arithmetic.MODELS["deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"]
    plan = arithmetic.Plan(8, H100, 1, 0.5, 20608, 16384, 20608, 20608)
    name = "old log-probs: activations, logits, entropy"
    activations = 2 * 20608 * (8 * 1536 + 4 * 8960)
    assert arithmetic.memory(model, plan)[name] == 12 * 20608 * 151936 + activations
    without = dataclasses.replace(plan, scaled=False, chunked=True)
    assert arithmetic.memory(model, without)[name] == 2 * 20608 * 151936 + activations


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("gibibytes", [80, 24])
def test_people_without_a_node_can_begin_on_one_gpu(arm, gibibytes):
    config = composed("r1_distill_1p5b_one_gpu", [f"arm={arm}"])
    assert config.trainer.nnodes * config.trainer.n_gpus_per_node == 1
    assert problems_of(config, gibibytes * arithmetic.GIB) == []


def test_the_one_gpu_page_has_the_dry_run_s_figures_and_begins_with_the_command():
    config, name = composed("r1_distill_1p5b_one_gpu", []), "r1_distill_1p5b_one_gpu"
    page = (ROOT / "recipes" / name / "README.md").read_text()
    assert page.split("\n\n")[1].startswith(f"```bash\nbash recipes/{name}/run.sh l2t --dry-run")
    columns = []
    for gibibytes in (80, 24):
        held = arithmetic.memory(
            arithmetic.shape_of(config.actor_rollout_ref.model.path), plan_of(config, gibibytes * arithmetic.GIB)
        )
        names = ("actor: weights, gradients, AdamW", "gathered layers", "update: activations and logits",
                 "old log-probs: activations, logits, entropy", "rollout: vLLM", "of it KV cache", "margin, updating",
                 "margin, sampling")  # fmt: skip
        columns.append([f"{held[of] / arithmetic.GIB:.1f}" for of in names])
    assert re.findall(r"^\|[^|]+\| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE) == list(zip(*columns, strict=True))


def test_an_adapter_has_the_parameters_that_peft_gives_it(tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = write_model(tmp_path / "model")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=4, target_modules="all-linear"))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    model = arithmetic.shape_of(str(folder))
    assert model.adapter(4) == trained
    held = arithmetic.memory(model, arithmetic.Plan(1, H100, 1, 0.5, 64, 64, 64, rank=4))
    assert held["actor: weights, gradients, AdamW"] == 4 * model.parameters + 16 * trained


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
    # the nodes are there when the second has been asked for
    there = f"until grep -q -- '-w n2' {calls}; do sleep 0.1; done"
    srun = f'#!/bin/sh\necho "$@" >> {calls}\ncase "$*" in *hostname*) echo 192.0.2.1 ;; *recipes.nodes*) {there} ;; esac\n'
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
            "+algorithm.l2t.diagnostics.compare_grpo=True",
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
        of_grpo = read_jsonl(next(runs[0].glob("metrics-*.jsonl")))
        for row in (line["data"] for line in of_grpo):  # another estimator, all else unchanged: L2T is measured beside it
            assert row["l2t/fitting_gain/std"] > 0
            # the random model answers nothing correctly: GRPO has no advantage, and so no gradient
            assert row["critic/score/max"] == row["critic/score/min"]
            assert row["l2t/advantage/abs_max"] == row["actor/grad_norm"] == row["l2t/grpo_grad_norm"] == 0.0
        for dumped in read_jsonl(runs[0] / "rollouts" / "1.jsonl"):
            assert all(episode["mean_advantage"] == 0.0 for episode in dumped["l2t"]["episodes"])
        table = (runs[2] / "compare.md").read_text()
        assert "| gsm8k_test | grpo | 3 |" in table
        assert "| gsm8k_test | l2t_paper | 3 |" in table
        merged = next((runs[2] / "l2t_paper" / "merged").iterdir())  # FSDP shards, by verl's merger
        assert (merged / "model.safetensors").exists()
    finally:
        for run in runs:
            shutil.rmtree(run, ignore_errors=True)


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_step_trains_with_a_learning_rate_of_0(recipe):
    """verl's own schedule with the recipe's options, over the 30 steps of deepscaler_1p5b."""
    optim = composed(recipe, []).actor_rollout_ref.actor.optim
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    options = {"min_lr_ratio": optim.min_lr_ratio, "zero_indexed_step": optim.zero_indexed_step}
    warm_up = int(optim.lr_warmup_steps_ratio * 30)
    schedule = get_cosine_schedule_with_warmup(optimizer, warm_up, 30, num_cycles=optim.num_cycles, **options)
    rates = []
    for _ in range(30):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(1 / 3)
    assert max(rates) == rates[2] == 1.0
    assert min(rates) == rates[-1] == pytest.approx(0.01, abs=1e-6)


def test_without_flash_attn_rows_without_padding_stay_apart():
    """What the launcher advises: `sdpa` tells the rows of a micro-batch by their positions."""
    model = qwen2(64).eval()
    model.set_attn_implementation("sdpa")
    rows = [torch.randint(0, 64, (1, length), generator=torch.Generator().manual_seed(length)) for length in (9, 14)]
    positions = torch.cat([torch.arange(row.shape[1]) for row in rows])[None]
    with torch.no_grad():
        together = model(input_ids=torch.cat(rows, dim=1), position_ids=positions, use_cache=False).logits
        alone = torch.cat([model(row).logits for row in rows], dim=1)
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=1e-5)


def test_without_flash_attn_log_probs_are_rounded_as_the_launcher_says(monkeypatch):
    """verl's own function on logits of R1's vocabulary, without autocast, against float32: sure tokens and rare ones."""
    monkeypatch.setattr(torch_functional, "FLAH_ATTN_CROSS_ENTROPY_LOSS_AVAILABLE", False)
    generator = torch.Generator().manual_seed(0)
    for peak, least, most in ((20, 5e-4, 5e-3), (0, 5e-3, 5e-2)):
        logits = 2 * torch.randn(64, 151936, generator=generator)
        labels = torch.randint(0, 151936, (64,), generator=generator)
        logits[torch.arange(64), labels] += peak
        logits = logits.bfloat16()
        exact = torch_functional.logprobs_from_logits(logits.float(), labels)
        error = (torch_functional.logprobs_from_logits(logits, labels).float() - exact).square().mean().sqrt()
        print(f"mean log p {exact.mean():.2f}: RMS error {error:.4f} nats")
        assert least < error < most


def test_a_model_that_cannot_be_had_is_named_before_anything_starts(tmp_path):
    """Without a network, which the hub's client is told at once; its cache is empty."""
    launch.check_model(str(tmp_path))
    code = "import sys; from recipes.launch import check_model; check_model(sys.argv[1])"
    variables = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    line = [sys.executable, "-c", code, "owner/model"]
    done = subprocess.run(line, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    *_, said = done.stderr.strip().splitlines()
    assert said.startswith(
        "launch: actor_rollout_ref.model.path=owner/model is no folder here, and the hub does not give it ("
    )
    assert said.endswith("bring it here and set actor_rollout_ref.model.path=FOLDER")
