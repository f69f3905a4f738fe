"""The bed of a language model, but for its trainings; that verl trains by such overrides, test_controlled_loop.py says."""

import dataclasses
import itertools
import random

import pandas as pd
import pytest
from cluster import composed
from omegaconf import OmegaConf

from l2t_verl.config import load_config
from recipes.controlled import language, word_problems

SEED = 20261130


def test_a_written_solution_ends_in_the_answer_and_its_needless_paragraphs_are_known():
    print(f"seed {SEED}")
    generator = random.Random(SEED)
    needless = set()
    for problem in itertools.islice(word_problems.problems("train", SEED), 200):
        *steps, last = word_problems.solution(problem, generator).split("\n\n")
        assert last == f"#### {problem.answer}" and int(problem.answer) > 0
        needless |= {word_problems.label(step) for step in steps} - {"step"}
        needed = [step for step in steps if word_problems.label(step) == "step"]
        assert needed == [f"{expression} = {value} {problem.thing}." for expression, value in problem.steps]
        assert all(eval(expression) == value for expression, value in problem.steps)
    assert needless == set(word_problems.NEEDLESS)


def test_splits_share_no_question():
    found = [{p.question for p in itertools.islice(word_problems.problems(split, 0), 200)} for split in ("train", "test")]
    assert not found[0] & found[1]


@pytest.mark.parametrize("arm", list(language.ARMS))
def test_an_arm_is_what_verl_would_train(arm, tmp_path):
    settings = language.settings_of(arm, 3, 24)
    config = composed(*language.overrides(settings, tmp_path))
    assert config.algorithm.adv_estimator == language.ARMS[arm].get("estimator", "grpo")
    tree = load_config(OmegaConf.to_container(config.algorithm.l2t, resolve=True))
    assert tree.gain.forcing_suffix == "\n\n#### " and tree.episodes.method == "paragraphs"
    assert config.trainer.val_only == (arm == "start")
    assert config.actor_rollout_ref.rollout.seed == 3
    parts = config.actor_rollout_ref
    assert parts.rollout.dtype == "bfloat16"  # and the weights that the optimiser moves are float32
    for role in (parts.actor, parts.ref):
        assert (role.fsdp_config.mixed_precision.param_dtype, role.fsdp_config.model_dtype) == ("bf16", "float32")
    if arm == "guided_charged":  # the default, but for how the answer is forced and the response cut
        found = tree.model_copy(update={"gain": None, "episodes": None, "credit": None, "checkpoints": None})
        default = load_config({})
        assert found == default.model_copy(update={"gain": None, "episodes": None, "credit": None, "checkpoints": None})
        assert (tree.gain.kind, tree.credit.method) == (default.gain.kind, default.credit.method)
        assert tree.credit.length_cost == default.credit.first_length_cost


def test_what_verl_reads_is_the_problem_and_its_answer(tmp_path):
    file = tmp_path / "a.parquet"
    language.write_problems(file, word_problems.problems("test", 0), 3)
    first = next(word_problems.problems("test", 0))
    rows = pd.read_parquet(file)
    assert len(rows) == 3
    assert rows["prompt"][0][0] == {"role": "user", "content": first.question}
    assert rows["reward_model"][0] == {"style": "rule", "ground_truth": first.answer}


def row(output: str, score: float, *episodes: tuple[str, float, bool]) -> dict:
    told = [{"text": text, "gain": gain, "states_answer": states} for text, gain, states in episodes]
    return {"output": output, "score": score, "l2t": {"episodes": told}}


def test_gains_are_ordered_before_the_answer_is_stated():
    step, check, last = "3 * 4 = 12 pens.", "Let me check: 3 * 4 = 12.", "12 - 2 = 10 pens."
    rows = [row("", 1.0, (step, 0.2, False), (check, 0.1, False), (last, -1.0, True), (check, 5.0, False))]
    assert language.ordered(rows) == 1.0
    assert language.ordered([row("", 1.0, (step, 0.1, False)), row("", 1.0, (check, 0.2, False))]) == 0.0
    assert language.ordered([row("", 1.0, (step, 0.1, False))]) is None


def test_the_table_pairs_by_seed():
    def found(arm: str, seed: int, right: float, tokens: float) -> dict:
        gains = 0.6 if arm == "grpo" else None
        evaluation = {"accuracy": right, "tokens": tokens, "needless": 0.25, "gains": gains}
        return {"settings": dataclasses.asdict(language.settings_of(arm, seed, 24)), "curve": [], "evaluation": evaluation}

    runs = [found("grpo", seed, 0.1 * seed, 100) for seed in (1, 2, 3, 4)]
    runs += [found("guided_charged", seed, 0.1 * seed + 0.2, 80) for seed in (1, 2, 3)]
    _, _, grpo, guided = language.table(runs).splitlines()
    assert grpo.startswith("| GRPO | 4 | 25.0 ± 20.5 | 100.0 ± 0.0 | 25.0 ± 0.0 | – | – |")
    assert grpo.endswith(" | 60 ± 0 |")
    assert " | 20.0 ± 0.0 | -20.0 ± 0.0 | – | – | – |" in guided


def test_what_a_model_wrote_is_measured():
    class Words:
        def encode(self, text, add_special_tokens):
            return text.split()

    found = language.evaluate([row("a b\n\nSo far c\n\n#### 3", 1.0), row("a\n\n#### 3", 0.0)], Words())
    assert found == {"accuracy": 0.5, "tokens": 6.0, "needless": pytest.approx(1 / 3)}
