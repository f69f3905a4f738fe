"""`l2t-verl inspect`: what is read, how it is scored, what survives a kill, what the command says."""

import json
import math
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import typer
from tiny import byte_tokenizer, metaspace_tokenizer, qwen2, read_jsonl, write_model
from typer.testing import CliRunner

from l2t_verl import gain
from l2t_verl.config import load_config
from l2t_verl.data import Problem
from l2t_verl.files import FileError
from l2t_verl.gain.expanded import expanded_log_probs
from l2t_verl.grading import Grader
from l2t_verl.inspector.command import inspect
from l2t_verl.inspector.records import Record, Skipped, SourceError, read
from l2t_verl.inspector.rollouts import Results, key_of, recorded
from l2t_verl.inspector.run import inspect_all
from l2t_verl.inspector.scoring import Scorer
from l2t_verl.packing import why_not_packed

ROLLOUTS = Path(__file__).parent / "fixtures" / "rollouts.jsonl"
PARAGRAPHS = {"episodes": {"method": "paragraphs"}}
app = typer.Typer()
app.command()(inspect)


def lines(file: Path, *rows) -> Path:
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer((" the", "\n\n"))


def scorer_of(tokenizer, settings=PARAGRAPHS, reference=None, **changes) -> Scorer:
    return Scorer(qwen2(len(tokenizer), **changes).eval(), tokenizer, load_config(settings), reference)


def command(*arguments, **more):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **more)


# ---- what is read


def test_columns_go_by_their_usual_names_or_by_those_that_are_given(tmp_path):
    usual = {"question": "2+3?", "output": "5", "gts": 5, "score": 1}
    nested = {"task": {"text": "2+3?"}, "models": {"a": "5"}, "reward_model": {"ground_truth": "5"}}
    (a,) = read(lines(tmp_path / "a.jsonl", usual))
    (b,) = read(lines(tmp_path / "b.jsonl", nested), {"problem": "task.text", "response": "models.a"})
    assert (a.problem, a.response, a.answers, a.outcome) == ("2+3?", "5", ("5",), 1.0)
    assert (b.problem, b.response, b.answers, b.outcome) == ("2+3?", "5", ("5",), None)


def test_json_and_parquet_hold_the_same_as_lines(tmp_path):
    import pandas as pd

    rows = read_jsonl(ROLLOUTS)[:2]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    keys = [[key_of(record) for record in read(tmp_path / name)] for name in ("a.json", "a.parquet")]
    assert keys[0] == keys[1] == [key_of(record) for record in read(ROLLOUTS)][:2]


def test_a_conversation_is_a_problem(tmp_path):
    prompt = [{"role": "system", "content": "Think."}, {"role": "user", "content": "2+3?"}]
    (record,) = read(lines(tmp_path / "a.jsonl", {"prompt": prompt, "response": "5", "answer": "5"}))
    assert record.problem == "2+3?"
    assert record.messages == prompt


def test_a_dump_of_verls_is_read_in_the_order_of_its_steps(tmp_path):
    for step in (10, 2):
        asked = f"system\nBe brief.\nuser\nWhat is {step}?\nassistant\n"
        lines(tmp_path / f"{step}.jsonl", {"input": asked, "output": "x", "gts": "1", "score": 0.0, "step": step})
    found = list(read(tmp_path))
    assert [(record.problem, record.label) for record in found] == [("What is 2?", "step 2"), ("What is 10?", "step 10")]


def test_what_is_wrong_with_a_line_is_said_with_its_place_and_the_rest_is_read(tmp_path):
    good = {"problem": "2+3?", "response": "5", "answer": "5"}
    file = lines(
        tmp_path / "bad.jsonl",
        good,
        '{"problem": "torn',
        {"problem": "?", "answer": "1"},
        good | {"response": " \n"},
        good | {"answer": ""},
        good | {"response": 5},
        "[1]",
        good | {"score": "high"},
        good,
    )
    found = list(read(file))
    assert [type(item) for item in found] == [Record, *[Skipped] * 7, Record]
    said = [f"{item.place} {item.reason}" for item in found if isinstance(item, Skipped)]
    for line, words in enumerate(
        ("does not parse", "no column response", "is empty", "answer is empty", "a text is needed", "an object", "'high'"), 2
    ):
        assert said[line - 2].startswith(f"bad.jsonl:{line} ")
        assert words in said[line - 2]


def test_an_evaluations_samples_get_their_problems_and_forced_answers_are_left_aside(tmp_path):
    sample = {"benchmark": "b", "question": "7", "index": 0, "budget": 0, "response": "5", "score": 1.0, "answer": "5"}
    lines(tmp_path / "samples.jsonl", sample, sample | {"budget": 60})
    (tmp_path / "results.json").write_text("{}")
    whole, forced = read(tmp_path, questions={("b", "7"): Problem("7", "2+3?", "5.0")})
    assert (whole.problem, whole.answers, whole.label) == ("2+3?", ("5.0",), "sample 0")
    assert not forced.is_fault
    assert all("--benchmark b=PATH" in item.reason for item in read(tmp_path))


@pytest.mark.parametrize("name", ["missing.jsonl", "rows.csv", "object.json", "broken.json", "broken.parquet"])
def test_a_source_that_cannot_be_read_is_refused_by_name(tmp_path, name):
    if name != "missing.jsonl":
        (tmp_path / name).write_text("{}" if name == "object.json" else "{")
    with pytest.raises(SourceError, match=name):
        list(read(tmp_path / name))


# ---- how it is scored


@pytest.mark.parametrize("settings", [PARAGRAPHS, {"episodes": {"method": "fixed_tokens", "tokens_per_episode": 40}}])
def test_the_scores_are_those_of_plain_sequences(tokenizer, settings):
    scorer = scorer_of(tokenizer, settings)
    record = next(read(ROLLOUTS))
    rollout = scorer.rollout(record, 1.0, "ok")
    prompt, response = scorer.prompt(record), tokenizer.encode(record.response)
    ends = [episode.end for episode in rollout.episodes]
    targets = gain.answer_targets(tokenizer, prompt, response, ends, "40", scorer.template)
    plain = expanded_log_probs(
        scorer.model,
        prompt,
        response,
        [0, *ends],
        [list(target.suffix_ids) for target in targets],
        [list(target.answer_ids) for target in targets],
        100,
    )
    smoothed = [(torch.log(1 + values.exp() / 0.05) / math.log(1 + 1 / 0.05)).mean().item() for values in plain]
    assert rollout.scores == pytest.approx(smoothed, abs=1e-5)
    assert sum(episode.gain for episode in rollout.episodes) == pytest.approx(rollout.scores[-1] - rollout.scores[0])
    assert "".join(episode.text for episode in rollout.episodes) + rollout.tail == record.response
    assert all(episode.penalty is None and episode.reward == episode.gain for episode in rollout.episodes)


def test_of_several_answers_the_best_counts(tokenizer):
    record = list(read(ROLLOUTS))[2]
    scorer = scorer_of(tokenizer)
    both = scorer.rollout(record, 1.0, "ok").scores
    single = [
        scorer.rollout(Record("", record.problem, None, record.response, (answer,), None), 1.0, "ok").scores
        for answer in record.answers
    ]
    assert both == [max(pair) for pair in zip(*single, strict=True)]


@pytest.mark.parametrize("packs", [True, False])
def test_the_penalty_is_measured_against_a_reference(tokenizer, packs):
    windowed = {} if packs else {"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 0}
    reference = qwen2(len(tokenizer), seed=1, **windowed).eval()
    scorer = scorer_of(tokenizer, reference=reference, **windowed)
    assert (why_not_packed(scorer.model) is None) == packs
    record = next(read(ROLLOUTS))
    rollout = scorer.rollout(record, None, "timeout")
    ids = torch.tensor([scorer.prompt(record) + tokenizer.encode(record.response)])
    first = ids.shape[1] - rollout.tokens
    with torch.no_grad():
        own, theirs = (
            of(ids).logits[0, first - 1 : -1].log_softmax(-1).gather(1, ids[0, first:, None])[:, 0]
            for of in (scorer.model, reference)
        )
    deltas = own - theirs
    for episode in rollout.episodes:
        wanted = 0.5 * deltas[episode.start : episode.end].square().sum().item()
        assert episode.penalty == pytest.approx(wanted, rel=1e-3)
        assert episode.reward == pytest.approx(episode.gain - scorer.config.beta * episode.penalty)


def test_episodes_may_open_at_surprising_tokens(tokenizer):
    scorer = scorer_of(tokenizer, {"episodes": {"method": "surprise", "surprise_threshold": 6.0}})
    assert len(scorer.rollout(next(read(ROLLOUTS)), 1.0, "ok").episodes) > 1


def test_what_a_model_cannot_score_is_refused_with_its_reason(tokenizer):
    record = next(read(ROLLOUTS))
    with pytest.raises(ValueError, match="positions for 64"):
        scorer_of(tokenizer, positions=64).rollout(record, 1.0, "ok")
    other = Record("", "?", None, "5 ✓", ("5",), None)
    with pytest.raises(ValueError, match="unknown to this tokenizer"):
        scorer_of(metaspace_tokenizer()).rollout(other, 1.0, "ok")
    for ids, words in (([9999], "none of this tokenizer's"), (tokenizer.encode("other"), "by this tokenizer")):
        foreign = Record("", "?", None, "five", ("5",), None, known={"response_ids": ids})
        with pytest.raises(ValueError, match=words):
            scorer_of(tokenizer).rollout(foreign, 1.0, "ok")
    with pytest.raises(ValueError, match="more than the model"):
        Scorer(qwen2(8), tokenizer, load_config(None))
    with pytest.raises(NotImplementedError):
        scorer_of(tokenizer, {"gain": {"kind": "monte_carlo"}})


def test_a_dump_of_l2ts_is_shown_as_it_is_recorded_and_scored_again_on_its_own_tokens(tokenizer):
    text = "2+3 is 5.\n\n#### 5"
    episode = {"text": "2+3 is 5.\n\n", "start": 0, "end": 10, "answer_score": 0.5, "gain": 0.25, "penalty": 0.1}
    known = {"outcome": 1.0, "grading": "ok", "answer_score_start": 0.25, "tokens": 16, "tail": "#### 5"}
    known |= {"episodes": [episode | {"reward": 0.13, "mean_advantage": 1.0}], "response_ids": tokenizer.encode(text)}
    record = Record("1.jsonl:1", "2+3?", None, text, ("5",), 1.0, known=known)
    assert recorded(record).episodes[0].reward == 0.13
    assert scorer_of(tokenizer).rollout(record, 1.0, "ok").tokens == len(tokenizer.encode(text))
    with pytest.raises(ValueError, match="--model"):
        recorded(next(read(ROLLOUTS)))


# ---- what survives, and what the command says


def test_a_second_start_goes_on_after_the_whole_lines(tokenizer, tmp_path):
    file, scorer, grader = tmp_path / "rollouts.jsonl", scorer_of(tokenizer), Grader(1)
    records = list(read(ROLLOUTS))
    try:
        first = inspect_all(records, Results(file), scorer, grader, print)
        data = file.read_bytes()
        file.write_bytes(data[:-20])  # a kill in the middle of the last line
        again = inspect_all(records, Results(file), scorer, grader, print)
    finally:
        grader.close()
    assert file.read_bytes() == data
    assert again.rollouts == first.rollouts
    assert [rollout.outcome for rollout in first.rollouts] == [1.0, 0.0, 1.0]
    assert inspect_all(records, Results(file), None, grader, print).rollouts == first.rollouts  # nothing is scored
    file.write_text("{}\n")
    with pytest.raises(FileError, match="line 1"):
        Results(file)


def test_the_command_scores_what_it_can_and_its_status_says_that_something_was_wrong(model, tmp_path):
    file = lines(tmp_path / "a.jsonl", *ROLLOUTS.read_text().splitlines(), "{")
    out = tmp_path / "out"
    arguments = (file, "--model", model, "--out", out, "--segmenter", "paragraphs")
    done = command(*arguments)
    assert done.exit_code == 1, done.output
    assert "a.jsonl:4 is skipped: does not parse" in done.output
    assert "3 rollouts, 1 skipped" in done.output
    rows = read_jsonl(out / "rollouts.jsonl")
    assert all(math.isfinite(episode["reward"]) for row in rows for episode in row["episodes"])
    assert "skipped: 1" in (out / "inspect.html").read_text()
    assert command(file, "--model", model, "--out", out, "--set", "beta=0.6").exit_code == 1  # results of other settings
    shown = command(out / "rollouts.jsonl", "--out", tmp_path / "shown")
    assert shown.exit_code == 0, shown.output
    kept = read_jsonl(tmp_path / "shown" / "rollouts.jsonl")
    assert [row["episodes"] for row in kept] == [row["episodes"] for row in rows]


def test_two_sources_stand_side_by_side(model, tmp_path):
    other = lines(tmp_path / "b.jsonl", *[row | {"response": "9"} for row in read_jsonl(ROLLOUTS)])
    done = command(ROLLOUTS, "--model", model, "--compare", other, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert done.output.count("3 rollouts, 0 skipped") == 2
    assert len((tmp_path / "out" / "compare.jsonl").read_text().splitlines()) == 3
    assert "b.jsonl" in (tmp_path / "out" / "inspect.html").read_text()


def test_a_response_comes_on_standard_input(model, tmp_path):
    arguments = ("-", "--model", model, "--out", tmp_path, "--problem", "2+3?", "--answer", "5")
    done = command(*arguments, input="2 + 3 is 5.\n\nThe final answer is \\boxed{5}.")
    assert done.exit_code == 0, done.output
    assert "2 + 3 is 5." in (tmp_path / "inspect.html").read_text()
    assert command(*arguments[:5], input="5").exit_code == 1
    assert command(*arguments, input=" ").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--segmenter", "sentences"], "algorithm.l2t.episodes.method"),
        (["--column", "respnse=x"], "--column takes THING=NAME"),
        (["--reference", "x"], "--reference without --model"),
        (["--model", "/no/such/model"], "cannot be loaded"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_words(tmp_path, arguments, words):
    done = command(ROLLOUTS, "--out", tmp_path, *arguments)
    assert done.exit_code == 1
    assert words in done.output


def test_the_installed_command_is_this_one():
    scripts = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"l2t-verl": "l2t_verl.__main__:main"}
    done = subprocess.run(
        [sys.executable, "-m", "l2t_verl", "inspect", "--help"], capture_output=True, text=True, check=True
    )
    assert "--reference" in done.stdout
