"""The controlled comparison's loop: the same as verl's workers do, its controls, its measures, its grid, its page."""

import copy
import dataclasses
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from loop_process import rank_main
from ranks import run_ranks
from stack import of_cpu_stack
from tiny import read_jsonl
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.controlled import (
    agreement,
    bed,
    comparison,
    evaluation,
    grid,
    loop,
    page,
    parts,
    quality,
    scoring,
    start,
    table,
    words,
)
from recipes.controlled.measure import is_right
from recipes.controlled.plans import ALL, ARMS, BEST, PLANS, SEEDS, arm_settings, start_of
from recipes.controlled.sampling import Rollout, prompt_ids, sample
from recipes.controlled.scoring import score
from recipes.controlled.settings import Settings
from recipes.controlled.task import problems

ROOT = Path(__file__).parents[1]
SEED = 20261126
TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "intermediate_size": 128,
}


@pytest.fixture(scope="session")
def tiny_start(tmp_path_factory):
    """A start that writes tags and, now and then, a right answer."""
    print(f"seed {SEED}")
    folder = tmp_path_factory.mktemp("starts") / "1"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads of so small a model wait for each other
    model, tokenizer = start.train(SEED, steps=250, rows=16, **TINY)
    torch.set_num_threads(threads)
    start.save(model, tokenizer, folder, {"seed": SEED})
    return folder


def test_identical_rollouts_give_what_verl_s_workers_make_of_them(tiny_start, tmp_path):
    """Over three updates: the advantages of all main arms, the loss, the weights."""
    tiny = {"prompts": 2, "group": 4, "limit": 60}
    arms = {name: vars(arm_settings(name, seed=3, start=1, **tiny)) for name in ARMS}
    run_ranks(rank_main, 1, tiny_start, arms["shaped"], arms, tmp_path)
    found = torch.load(tmp_path / "found.pt", weights_only=False)
    for ours, theirs in zip(found["loop"], found["verl"], strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-4)
        for name in arms:
            torch.testing.assert_close(ours["advantages"][name], theirs["advantages"][name], atol=1e-3, rtol=1e-3)
    moved = max((a - found["start"][name]).abs().max() for name, (a, _) in found["parameters"].items())
    apart = max((a - b).abs().max() for a, b in found["parameters"].values())
    assert apart < 0.02 * moved


@pytest.fixture(scope="session")
def rollouts(tiny_start):
    """(model, tokenizer, 16 rollouts of 4 problems)."""
    model = AutoModelForCausalLM.from_pretrained(tiny_start, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_start)
    torch.manual_seed(SEED)
    asked = [problem for problem in itertools.islice(problems("train", SEED), 4) for _ in range(4)]
    return model, tokenizer, sample(model, tokenizer, asked, limit=80)


def scored(rollouts, change=""):
    model, tokenizer, sampled = rollouts
    config = loop.method(arm_settings("shaped", seed=0, start=1))
    return scoring.score(model, model, tokenizer, sampled, config, change=change, seed=SEED)


def test_controls_change_what_they_say_and_nothing_else(rollouts):
    plain, shuffled, zero = scored(rollouts), scored(rollouts, "shuffled"), scored(rollouts, "zero_gains")
    assert torch.equal(plain.process.sort(dim=1).values, shuffled.process.sort(dim=1).values)
    assert not torch.equal(plain.process, shuffled.process)
    assert zero.process.abs().max() == 0 < plain.process.abs().max()  # the model is its own reference: no penalty
    moved = scored(rollouts, "random_boundaries")
    assert [len(ends) for ends in moved.ends] == [len(ends) for ends in plain.ends] and moved.ends != plain.ends
    assert all(after[-1] <= before[-1] for after, before in zip(moved.ends, plain.ends, strict=True) if before)
    wrong = scored(rollouts, "wrong_answer")
    assert wrong.ends == plain.ends and torch.equal(wrong.outcome, plain.outcome)
    assert (wrong.scores - plain.scores).abs().max() > 0.01
    true = scored(rollouts, "true_labels")
    labels = [scoring.labels_of(rollout, ends, rollouts[1]) for rollout, ends in zip(rollouts[2], true.ends, strict=True)]
    for row, of_row in zip(true.process, labels, strict=True):
        useful = [label in ("necessary", "correction") for label in of_row]
        wrong_step = [label == "mistake" for label in of_row]
        assert (row[: len(of_row)] == 1).tolist() == useful and (row[: len(of_row)] == -1).tolist() == wrong_step
        assert row[len(of_row) :].abs().sum() == 0
    for other in (shuffled, zero, wrong, true):
        assert torch.equal(other.old_log_probs, plain.old_log_probs)


def test_the_derivatives_of_a_small_step_are_its_log_ratios(rollouts):
    """Eq. 4 to first order: along the whole displacement, `directional` is `log_ratio_episode`."""
    reference, tokenizer, sampled = rollouts
    model = copy.deepcopy(reference)
    torch.manual_seed(SEED)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".layers." in name:
                weight.add_(1e-4 * torch.randn_like(weight))
    found = {}
    for estimator in ("directional", "log_ratio_episode"):
        whole = {"rank_fraction": 1.0, "damping": 0.0} if estimator == "directional" else {}
        tree = {"compression": {"estimator": estimator} | whole}
        config = loop.method(Settings("", seed=0, start=1, estimator="l2t", l2t=tree))
        found[estimator] = scoring.score(model, reference, tokenizer, sampled, config).penalty
    assert found["log_ratio_episode"].max() > 1e-6
    torch.testing.assert_close(*found.values(), rtol=0.05, atol=0.05 * found["log_ratio_episode"].max().item())


def test_a_sampled_score_is_the_share_of_right_answers(rollouts):
    _, _, sampled = rollouts
    values = [torch.tensor([0.9, 1.0]).log(), torch.tensor([0.5, 0.5]).log()]
    config = loop.method(arm_settings("mrt", seed=0, start=1))
    draws = random.Random(SEED)
    mean = torch.stack([scoring._scores(values, 2, config, draws) for _ in range(2000)]).mean(dim=0)
    assert mean.tolist() == pytest.approx([0.9, 0.25, 0.25], abs=0.03)
    assert len(sampled) == 16


def test_budgets_end_where_everything_is_written(rollouts):
    model, tokenizer, sampled = rollouts
    config = loop.method(arm_settings("grpo", seed=0, start=1))
    found = evaluation.budgets(model, tokenizer, sampled, config)
    right = sum(is_right(rollout, tokenizer) for rollout in sampled) / len(sampled)
    longest = max(len(rollout.response) for rollout in sampled)
    assert all(value == pytest.approx(right) for budget, value in found.items() if budget >= longest)
    assert 0 < found[0] < 1


def test_quality_of_a_reward(rollouts):
    model, tokenizer, _ = rollouts
    settings = arm_settings("grpo", seed=0, start=1, limit=80)
    found = quality.quality(settings, model, model, tokenizer, groups=6)
    assert set(words.KINDS) <= set(found) and found["episodes"] > 20
    low, high = found["geometric"]["gain"]["interval"]
    assert 0 <= low <= found["geometric"]["gain"]["useful over removable"] <= high <= 1
    assert 0 <= found["credit"]["grpo"]["flipped"] <= 1


@of_cpu_stack
def test_one_command_repeats_one_seed_and_a_killed_grid_goes_on(tiny_start, tmp_path, monkeypatch):
    """The grid is killed once its first run is done; the command then does the others, and its table has all arms."""
    tiny = ["--starts", str(tiny_start.parent), "--steps", "2", "--test", "12"]
    grid = [
        sys.executable,
        "-m",
        "recipes.controlled.grid",
        "one",
        "--results",
        str(tmp_path / "results"),
        "--processes",
        "1",
    ]
    killed = subprocess.Popen([*grid, *tiny], cwd=ROOT, start_new_session=True)
    deadline = time.time() + 300
    while not (done := list((tmp_path / "results").glob("*.json"))) and time.time() < deadline:
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    first = {file: file.stat().st_mtime_ns for file in done}
    assert 1 <= len(first) < 3
    environment = os.environ | {"OUT": str(tmp_path)}
    command = ["bash", "recipes/controlled/run.sh", *tiny]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    files = {file.stem: json.loads(file.read_text()) for file in (tmp_path / "results").glob("*.json")}
    assert len(files) == 3
    monkeypatch.setattr(sys, "argv", ["table", str(tmp_path / "results"), "--table", str(tmp_path / "t.parquet")])
    for _ in range(2):  # what is there already is there once
        table.main()
    runs = dict(zip(sorted(files), comparison.load(tmp_path / "t.parquet"), strict=True))
    same = {name: {key: run[key] for key in files[name]} for name, run in runs.items()}
    assert json.dumps(same, sort_keys=True) == json.dumps(files, sort_keys=True)
    assert {file: file.stat().st_mtime_ns for file in first} == first
    for name in ("grpo", "length_penalty", BEST):
        assert ARMS[name].title in found
        assert ARMS[name].title in (tmp_path / "plots" / "frontier.svg").read_text()
    assert (tmp_path / "plots" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_committed_runs_are_those_of_the_plans_and_make_the_committed_pages():
    runs = comparison.load(table.FILE)
    planned = {settings.name for plan in PLANS.values() for settings in plan}
    assert {Settings(**run["settings"]).name for run in runs} <= planned
    assert {file: file.read_text() for file in page.pages(runs)} == page.pages(runs)
    assert {name: arm.chosen for name, arm in ALL.items() if arm.tried} == comparison.choose(comparison.frontier(runs))


def test_bfloat16_computes_and_float32_weights_are_moved(tiny_start):
    """Steps that bfloat16 weights could not take add up in the master; what computes is its copy."""
    settings = arm_settings("shaped", seed=3, start=1, prompts=2, group=4, limit=60, steps=2, learning_rate=1e-6)
    half = dataclasses.replace(settings, compute="bfloat16")
    assert half.name != settings.name
    tokenizer = AutoTokenizer.from_pretrained(tiny_start)
    master = AutoModelForCausalLM.from_pretrained(tiny_start, dtype=torch.float32)
    before = copy.deepcopy(master)
    reference, curve = loop.train(half, master, tokenizer)
    assert curve[0]["penalty"] == 0.0 and all(point["gradient norm"] > 0 for point in curve)
    assert {weight.dtype for weight in master.parameters()} == {torch.float32}
    assert {weight.dtype for weight in reference.parameters()} == {torch.bfloat16}
    moved = [(a - b).abs().max().item() for a, b in zip(master.parameters(), before.parameters(), strict=True)]
    assert 0 < max(moved) < 1e-5
    policy = loop.computing(master, half)
    assert all(torch.equal(p, w.bfloat16()) for p, w in zip(policy.parameters(), master.parameters(), strict=True))
    assert {table.dtype for table in policy.buffers()} == {torch.float32}


def test_log_probs_of_the_sampling_take_the_rounding_off_the_penalty(tiny_start):
    """In float32 they are the scoring's; in bfloat16 the reference's rounding, which is no penalty, is taken off."""
    settings = dataclasses.replace(arm_settings("episode", 5, 1), compute="bfloat16")
    config = loop.method(settings)
    assert loop.takes_rounding_off(settings, config)
    assert not loop.takes_rounding_off(arm_settings("episode", 5, 1), config)
    tokenizer = AutoTokenizer.from_pretrained(tiny_start)
    model = AutoModelForCausalLM.from_pretrained(tiny_start, dtype=torch.float32)
    asked = [problem for problem in itertools.islice(problems("train", 0), 4) for _ in range(4)]
    torch.manual_seed(0)
    rollouts = sample(model, tokenizer, asked, limit=60, log_probs=True)
    scored = score(model, model, tokenizer, rollouts, config)
    for rollout, old in zip(rollouts, scored.old_log_probs, strict=True):
        assert len(rollout.log_probs) == len(rollout.response)
        torch.testing.assert_close(torch.tensor(rollout.log_probs), old[: len(rollout.response)], atol=1e-4, rtol=0)
    before = copy.deepcopy(model)
    for weight in model.parameters():
        weight.data += 1e-4 * torch.randn_like(weight)
    policy, reference = (loop.computing(weights, settings) for weights in (model, before))
    rollouts = sample(policy, tokenizer, asked, limit=60, log_probs=True)
    left_in = [dataclasses.replace(rollout, log_probs=None) for rollout in rollouts]
    exact = [copy.deepcopy(weights).float() for weights in (policy, reference)]  # what is rounded away of weights is gone
    truth = score(*exact, tokenizer, left_in, config).penalty.sum()
    corrected, raw = (score(policy, reference, tokenizer, each, config).penalty.sum() for each in (rollouts, left_in))
    # by no more: sampling and scoring share kernels here, so that much of their rounding is the same
    assert abs(corrected - truth) < 0.85 * abs(raw - truth)


def test_a_grid_names_the_run_that_fails(tmp_path):
    settings = arm_settings("grpo", seed=0, start=7, steps=1)
    (tmp_path / "7").mkdir()
    (failure,) = grid.work([settings], tmp_path, tmp_path / "results", processes=1)
    assert failure.startswith(f"{settings.name}: ")


@pytest.mark.slow
def test_an_arm_goes_through_verl_itself(tmp_path):
    """Two steps of main_ppo with Ray and vLLM; what does not depend on the sampling is what the loop computes."""
    seed = SEEDS[0]
    command = [
        sys.executable,
        "-m",
        "recipes.controlled.through_verl",
        "episode_priced",
        "--steps",
        "2",
        "--seed",
        str(seed),
    ]
    folders = ["--run", str(tmp_path / "run"), "--results", str(tmp_path)]
    found = subprocess.run([*command, *folders], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stdout + found.stderr
    first, second = json.loads((tmp_path / f"episode_priced-{seed}.json").read_text())["curve"]
    assert all(point["gradient norm"] > 0 and point["episodes"] > 2 for point in (first, second))
    assert first["penalty"] < 1e-9 < second["penalty"]

    settings = arm_settings("episode_priced", seed, start_of(seed))
    folder = grid.STARTS_FOLDER / str(settings.start)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        AutoTokenizer.from_pretrained(folder),
    )
    asked = itertools.islice(problems("train", 1_000_000 + seed), settings.prompts)
    unanswered = [Rollout(problem, prompt_ids(tokenizer, problem), [tokenizer.eos_token_id]) for problem in asked]
    before = scoring.score(model, model, tokenizer, unanswered, loop.method(settings)).scores[:, 0].tolist()
    rows = read_jsonl(tmp_path / "run" / "rollouts" / "1.jsonl")
    seen = [(row["input"], row["l2t"]["answer_score_start"]) for row in rows if row["l2t"]["episodes"]]
    assert len(rows) == settings.prompts * settings.group and len(seen) > len(rows) / 2
    of_problem = {str(rollout.problem): value for rollout, value in zip(unanswered, before, strict=True)}
    for text, value in seen:
        assert value == pytest.approx(of_problem[text.removesuffix("<think>")], abs=1e-4)
    assert first["J start"] == pytest.approx(sum(value for _, value in seen) / len(seen), abs=1e-5)


def test_the_true_labels_are_followed_most():
    """On the kept start of the bed of parts; sixteen responses decide nothing else."""
    found = agreement.measure(*bed.loaded(parts.START), problems=2, seed=SEED)
    assert set(found) == {agreement.OUTCOME, agreement.LABELS, *agreement.KINDS}
    bound, _, _ = found[agreement.LABELS]["own gain"]
    assert bound > 0.6
    for kind in agreement.KINDS:
        for value, low, high in found[kind].values():
            assert low <= value <= high and value < bound
    assert agreement.table({"correlation": found}).count("|\n") == 2 + len(found) - 1
