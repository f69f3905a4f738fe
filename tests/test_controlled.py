"""The controlled comparison's test bed: problems, written solutions, the labeller, the tokenizer, the start."""

import dataclasses
import itertools
import math
import random
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from l2t_verl.config import load_config
from l2t_verl.episodes.limits import MAX_EPISODES
from recipes.controlled import bed, labels, measure, parts, plans, sampling, solutions, sparse, start, task, words
from recipes.controlled.vocabulary import THINK, make_tokenizer

ROOT = Path(__file__).parents[1]
SEED = 20261125
PROBLEM = task.parse("a=3;b:4+a;e:1-b;c:2*b;?c")  # a 3, b 7, c 4; e is not needed


def written(count: int) -> list[tuple[task.Problem, list[solutions.Episode], str]]:
    print(f"seed {SEED}")
    generator = random.Random(SEED)
    return [(p, *solutions.solve(p, generator)) for p in itertools.islice(task.problems("train", SEED), count)]


def test_a_problem_survives_its_text_and_knows_its_truth():
    assert (PROBLEM.values, PROBLEM.answer, PROBLEM.needed) == ({"a": 3, "b": 7, "e": 4, "c": 4}, "4", {"b", "c"})
    for problem in itertools.islice(task.problems("test", 0), 300):
        assert task.parse(str(problem), problem.tier) == problem
        assert len(problem.needed) == task.TIERS[problem.tier]
        assert len(problem.definitions) == 1 + task.TIERS[problem.tier] + task.DISTRACTORS[problem.tier]


def test_splits_share_no_problem_and_the_test_split_is_large_enough():
    found = {split: {str(p) for p in itertools.islice(task.problems(split, 0), 3000)} for split in task.SPLITS}
    for one, other in itertools.combinations(found.values(), 2):
        assert not one & other
    assert len(found["test"]) > 2000
    first = next(task.problems("train", 1))
    assert first == next(task.problems("train", 1)) != next(task.problems("train", 2))


def test_the_labeller_recovers_the_generator_s_labels_from_the_text():
    agree = [
        episode.label == label
        for problem, episodes, _ in written(3000)
        for episode, label in zip(episodes, labels.label_episodes(problem, [e.text for e in episodes]), strict=True)
    ]
    assert len(agree) > 10_000
    assert sum(agree) / len(agree) >= 0.99


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["b:4+a=3b=7", "c:2*b=7c=4"], ["necessary", "necessary"]),
        (["<episode_1>b:4+a=3b=7</episode_1>"], ["necessary"]),
        (["b:4+a=3b=8", "no b:4+a=3b=7", "check b:4+a=3b=7", "know b=7"], ["mistake", "correction", "recheck", "restate"]),
        (["b:4+a=3b=8", "c:2*b=8c=6", "no b:4+a=3b=7", "no c:2*b=7c=4"], ["mistake", "mistake", "correction", "correction"]),
        (["try e:1-b=7e=4", "e:1-b=7e=9", "know a=3"], ["detour", "detour", "restate"]),
        (["know c=4", "know c=5"], ["necessary", "mistake"]),  # the right value out of nothing, and a wrong one
        (["", "b=7", "know z=1", "j:1+b=1j=2", "b:4+a=3b=7 b:4+a=3b=7"], ["other"] * 5),
    ],
)
def test_labels_of_what_a_policy_might_write(texts, expected):
    assert labels.label_episodes(PROBLEM, texts) == expected


def test_solutions_have_every_kind_of_step_and_are_often_but_not_always_right():
    found = written(2000)
    kinds = {episode.label for _, episodes, _ in found for episode in episodes}
    assert kinds == set(words.LABELS) - {"other"}
    right = sum(answer == problem.answer for problem, _, answer in found) / len(found)
    assert 0.75 < right < 0.95
    spared = solutions.Rates(restate=0, recheck=0, detour=0, mistake=0, closing=0)
    for problem, *_ in found[:100]:
        episodes, answer = solutions.solve(problem, random.Random(0), spared)
        assert answer == problem.answer
        assert [e.label for e in episodes] == ["necessary"] * len(problem.needed)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("</think>answer 7", "7"),
        ("<episode_1>know a=3</episode_1></think>answer 3", "3"),
        ("</think>answer 77", None),
        ("answer 7", None),
        ("</think>7", None),
        ("</think>answer ", None),
        ("</think></think>answer 7", None),
        ("", None),
    ],
)
def test_only_one_digit_after_the_thought_is_an_answer(text, answer):
    assert solutions.written_answer(text) == answer


def test_the_tokenizer_is_the_same_after_transformers_has_loaded_it_with_a_model(tmp_path):
    """With a Qwen2 beside it, transformers takes Qwen2's own class, and with it other rules of splitting."""
    made = make_tokenizer()
    model = start.make_model(made, 0, num_hidden_layers=1)
    start.save(model, made, tmp_path / "model", {})
    loaded = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert len(loaded.encode("\n")) == 1  # verl's agent loop asks for it where the model is a Qwen2
    longest = 0
    for problem, episodes, answer in written(300):
        text = solutions.render(episodes[:MAX_EPISODES], answer)
        ids = loaded.encode(text)
        assert ids == made.encode(text)
        assert loaded.decode(ids) == text  # a character without a token would be missing
        prompt = sampling.prompt_ids(loaded, problem)
        assert loaded.decode(prompt) == str(problem) + THINK
        longest = max(longest, len(prompt))
    assert longest + solutions.LIMIT < model.config.max_position_embeddings
    with pytest.raises(FileExistsError, match="remove it, or name another"):
        start.save(model, made, tmp_path / "model", {})


def test_examples_fit_the_limit_and_some_are_cut_short_with_the_true_answer():
    tokenizer = make_tokenizer()
    cut = 0
    for prompt, response in itertools.islice(start.examples(tokenizer, SEED), 1000):
        assert len(response) <= solutions.LIMIT
        problem = task.parse(tokenizer.decode(prompt).removesuffix(THINK))
        text = tokenizer.decode(response[:-1])
        steps = labels.TAGS.sub("|", text.split(solutions.THINK_CLOSE)[0]).replace("||", "|").strip("|").split("|")
        if f"{problem.query}=" not in text:  # it was never computed
            assert solutions.written_answer(text) == problem.answer
            cut += 1
        assert len(steps) <= MAX_EPISODES
    assert 50 < cut < 200


def test_a_start_is_trained_saved_and_sampled_from(tmp_path):
    """At a tiny size: the loss falls, the folder loads, responses end or are cut at the limit, whatever stands beside."""
    sizes = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1}
    sizes["intermediate_size"] = 64
    model, tokenizer = start.train(SEED, steps=150, rows=8, **sizes)
    batch = list(itertools.islice(start.examples(tokenizer, SEED + 1), 32))
    with torch.no_grad():
        before = start._loss(start.make_model(tokenizer, SEED, **sizes), batch, tokenizer.pad_token_id)
        after = start._loss(model, batch, tokenizer.pad_token_id)
    assert after < 0.6 * before
    start.save(model, tokenizer, tmp_path / "model", {"seed": SEED})
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    problems = list(itertools.islice(task.problems("validation", SEED), 5))
    rollouts = sampling.sample(loaded, tokenizer, problems, temperature=0, limit=12, rows=2)
    assert [rollout.problem for rollout in rollouts] == problems
    for rollout in rollouts:
        ended = tokenizer.eos_token_id in rollout.response
        assert len(rollout.response) <= 12
        assert ended == (rollout.response[-1] == tokenizer.eos_token_id)
        assert ended or len(rollout.response) == 12
    alone = [sampling.sample(loaded, tokenizer, [problem], temperature=0, limit=12)[0] for problem in problems]
    assert [r.response for r in alone] == [r.response for r in rollouts]  # padding on the left changes nothing


def test_tokens_are_counted_by_what_the_steps_are():
    tokenizer = make_tokenizer()
    steps = ["b:4+a=3b=8", "no b:4+a=3b=7", "check b:4+a=3b=7", "c:2*b=7c=4", "know c=4"]
    texts = [
        solutions.render([solutions.Episode(step, "") for step in steps], "4"),
        solutions.render([], "5"),
        "<episode_1>b:4+a=3b=7",  # cut off: no answer
    ]
    rollouts = [sampling.Rollout(PROBLEM, [], [*tokenizer.encode(text), tokenizer.eos_token_id]) for text in texts[:2]]
    rollouts.append(sampling.Rollout(PROBLEM, [], tokenizer.encode(texts[2])))
    found = measure.measure(rollouts, tokenizer)[PROBLEM.tier]
    lengths = [len(rollout.response) for rollout in rollouts]
    assert (found["problems"], found["accuracy"], found["tokens"]) == (3, 1 / 3, sum(lengths) / 3)
    tokens = {"mistake": 8, "correction": 9, "recheck": 9, "necessary": 8 + 7, "restate": 5, "detour": 0, "other": 0}
    assert {label: round(3 * mean) for label, mean in found["tokens by label"].items()} == tokens


def test_the_sparse_bed_asks_for_the_end_of_every_chain():
    problem = task.parse("a=3;b:4+a;c:2*b;d=5;e:1-d;f:3+e;?cf")
    assert problem.answer == "49" and problem.needed == set("bcef")
    assert solutions.written_answer("</think>answer 49", 2) == "49" and solutions.written_answer("</think>answer 49") is None
    for drawn in itertools.islice(sparse.BED.problems("validation", SEED), 30):
        assert task.parse(str(drawn), drawn.tier) == drawn and task.split_of(drawn) == "validation"
        assert len(drawn.answer) == sparse.CHAINS[drawn.tier] == len(drawn.needed) / sparse.COMPUTED


@pytest.mark.parametrize(
    ("tail", "share"), [("</think>answer 49", 1.0), ("</think>answer 48", 0.5), ("</think>answer 4", 0.0), ("49", 0.0)]
)
def test_the_sparse_bed_counts_right_digits(tail, share):
    tokenizer = make_tokenizer()
    problem = task.parse("a=3;b:4+a;c:2*b;d=5;e:1-d;f:3+e;?cf")
    rollout = sampling.Rollout(problem, [], tokenizer.encode(tail, add_special_tokens=False))
    assert bed.evaluate([rollout], tokenizer)["digits"] == share


def test_the_sparse_bed_s_table_has_intervals_over_problems():
    def found(arm: str, right: float, steps: int = sparse.TRAINED) -> dict:
        shares = {"accuracy": right, "digits": 2 * right, "tokens": 60}
        return {"settings": {"arm": arm, "test": 50, "steps": steps}, "curve": [{"kl": 50 * right}], "evaluation": shares}

    runs = [{**found("start", 0.02, 0), "curve": []}, found("grpo", 0.02), found("grpo", 0.06), found("critic", 0.05)]
    runs += [found("grpo", 0.02, sparse.LONG), found("default", 0.03, sparse.LONG)]
    header, _, start, grpo, critic, *long = sparse.table(runs).splitlines()
    assert header.startswith("| arm | steps | seeds | right, % | digits right, % | tokens | KL, nats |")
    assert start.startswith(
        "| the start | 0 | 1 | 2.0 ± 3.9 | 4.0 ± 5.4 | 60 | 0 |"
    )  # 1.96 √(.02 · .98 / 50), 1.96 √(.04 · .96 / 50)
    assert [line.split(" | ")[1] for line in long] == [str(sparse.LONG)] * 2
    assert sparse.moved_against_grpo(runs, "default", sparse.LONG) == pytest.approx(1.5)
    assert math.isnan(sparse.moved_against_grpo(runs, "default", sparse.TRAINED))
    assert grpo == "| GRPO | 30 | 2 | 4.0 ± 3.8 | 8.0 ± 5.3 | 60 | 2.0 | – | – |"
    assert critic.endswith("| +1.0 ± 7.2 | +2.0 ± 9.9 |")


def test_the_parts_of_a_problem_do_not_need_one_another():
    problem = task.parse("a=3;b:4+a;c:2*b;d:1-a;e:3+d;?ce")
    assert problem.answer == "41"
    for drawn in itertools.islice(parts.BED.problems("validation", SEED), 30):
        assert task.parse(str(drawn), drawn.tier) == drawn and task.split_of(drawn) == "validation"
        assert len(drawn.answer) == parts.PARTS[drawn.tier] == len(drawn.needed) / parts.COMPUTED
        of_part = [dataclasses.replace(drawn, query=asked).needed for asked in drawn.query]
        assert all(not a & b for a, b in itertools.combinations(of_part, 2))


def test_what_was_measured_as_the_default_is_the_default():
    """On both beds and in the recipes; λ is written out there, and comes with the credit where it is not."""
    recipe = yaml.safe_load((ROOT / "recipes" / "arm" / "l2t.yaml").read_text())["algorithm"]["l2t"]
    default = load_config({})
    for tree in (plans.arm_settings(plans.DEFAULT, 100, 1).l2t, parts.ARMS[plans.DEFAULT]["l2t"], recipe):
        found = load_config(tree)
        assert found.credit.length_cost == default.credit.first_length_cost
        credit = found.credit.model_copy(update={"length_cost": None})
        assert found.model_copy(update={"credit": credit}) == default


def test_the_table_of_parts_pairs_by_seed():
    def found(arm: str, seed: int, right: float, tokens: float) -> dict:
        settings = dataclasses.asdict(parts.arm_settings(arm, seed))
        evaluation = {"accuracy": right, "digits": right, "tokens": tokens}
        return {
            "settings": settings,
            "curve": [{"kl": 1.0, "accuracy": k * right / 30} for k in range(60)],
            "evaluation": evaluation,
        }

    runs = [found("grpo", seed, 0.1 * seed, 100) for seed in (0, 1, 2, 3)]
    runs += [found("episode", seed, 0.1 * seed + 0.2, 80) for seed in (1, 2, 3)]
    _, _, grpo, episode = parts.table(runs).splitlines()
    assert grpo.startswith("| 2 | GRPO | 3 | 20.0 ± 24.8 |") and grpo.endswith(" | – | – | 60.0 ± 0.0 | – | – |")
    assert " | 20.0 ± 0.0 | -20.0 ± 0.0 | " in episode
    assert parts.tuning_table(runs).count("GRPO") == 1
    assert {settings.split for settings in (parts.arm_settings("grpo", 0), parts.arm_settings("grpo", 1))} == {
        "validation",
        "test",
    }
