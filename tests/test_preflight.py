"""`l2t-verl preflight`: needless steps, what is seen of a response, figures, verdicts, and the command."""

import itertools
import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from test_evaluate import TinyEngine
from tiny import byte_tokenizer, qwen2, read_jsonl, write_model
from typer.testing import CliRunner

from l2t_verl import gain
from l2t_verl.config import load_config
from l2t_verl.inspector.records import Record
from l2t_verl.inspector.scoring import Scorer
from l2t_verl.preflight import command
from l2t_verl.preflight.evidence import SHOWN
from l2t_verl.preflight.figures import Estimate, Outcomes, estimate, outcomes, sight
from l2t_verl.preflight.needless import with_needless
from l2t_verl.preflight.page import page
from l2t_verl.preflight.responses import problems
from l2t_verl.preflight.seen import NOWHERE, Looker, Probed, Seen, SeenFile
from l2t_verl.preflight.verdict import Advice, verdict

ROOT = Path(__file__).parents[1]
PARAGRAPHS = {"episodes": {"method": "paragraphs"}}
WAY = ("paragraphs", "configured", "geometric")
app = typer.Typer()
app.command()(command.preflight)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), positions=2048)


def scorer_of(settings=PARAGRAPHS) -> Scorer:
    tokenizer = byte_tokenizer((" the", "\n\n"))
    return Scorer(qwen2(len(tokenizer)).eval(), tokenizer, load_config(settings))


def record(response: str, question: str = "1 + 1?", outcome: float | None = 1.0, answer: str = "2") -> Record:
    return Record("here", question, None, response, (answer,), outcome)


# ---- needless steps


@pytest.mark.parametrize("seed", range(20))
def test_needless_steps_are_put_between_the_others(seed):
    print(f"seed {seed}")
    draws = random.Random(seed)
    ends = sorted(draws.sample(range(1, 30), draws.randint(1, 6)))
    ids = list(range(100, 100 + ends[-1] + draws.randint(0, 5)))
    foreign = [[7, 8], [9]] if seed % 2 else []
    probe = with_needless(ids, ends, foreign, random.Random(seed))
    pieces = [probe.ids[a:b] for a, b in itertools.pairwise([0, *probe.ends])]
    own = [piece for piece, label in zip(pieces, probe.labels, strict=True) if label == "own"]
    assert own == [ids[a:b] for a, b in itertools.pairwise([0, *ends])]
    assert probe.ids[probe.ends[-1] :] == ids[ends[-1] :]
    for number, (piece, label) in enumerate(zip(pieces, probe.labels, strict=True)):
        before = [pieces[k] for k in range(number) if probe.labels[k] == "own"]
        assert label == "own" or piece in (foreign if label == "foreign" else before)
    assert probe == with_needless(ids, ends, foreign, random.Random(seed))


# ---- what is seen


def test_scores_are_the_scorer_s_own():
    scorer = scorer_of()
    response = "<think>One and one.\n\nThat is 2.\n\nWait, is it? Let me check that: one and one are two.</think>\\boxed{2}"
    seen = Looker(scorer, 0).look(record(response), "g", 1.0, ["<think>Foreign.\n\nSteps.</think>3"], 0)
    whole = scorer.rollout(record(response), 1.0, "recorded")
    assert seen.scores == pytest.approx(whole.scores)
    assert seen.ends == [episode.end for episode in whole.episodes]
    assert seen.stated == 1
    assert seen.tokens == whole.tokens
    assert seen.forced > 0
    own = {probed.segmenter for probed in seen.probes}
    assert own == {"paragraphs", "discourse_markers"}
    kinds = {(probed.suffix, probed.kind) for probed in seen.probes if probed.segmenter == "paragraphs"}
    assert kinds == set(itertools.product(("configured", "####", "sentence"), ("geometric", "probability", "mean_logprob")))


def test_gains_of_needless_steps_are_those_of_the_text_that_holds_them(monkeypatch):
    """One forward for all suffixes against one for each, with the template of its own."""
    scorer = scorer_of()
    made = []
    monkeypatch.setattr(
        "l2t_verl.preflight.seen.with_needless", lambda *given: made.append(with_needless(*given)) or made[-1]
    )
    asked = record("<think>One.\n\nTwo.\n\nIt is 2.\n\nSo it is.</think>2")
    looker = Looker(scorer, 3)
    seen = looker.look(asked, "g", 1.0, [], 0)
    (probe, _) = made
    prompt = scorer.prompt(asked)
    for probed in (probed for probed in seen.probes if probed.segmenter == "paragraphs"):
        template = looker.templates[probed.suffix]
        targets = gain.answer_targets(scorer.tokenizer, prompt, probe.ids, probe.ends, "2", template)
        scores = gain.answer_scores(
            scorer.model,
            prompt,
            probe.ids,
            probe.ends,
            [list(target.suffix_ids) for target in targets],
            [list(target.answer_ids) for target in targets],
            kind=probed.kind,
        )
        torch.testing.assert_close(torch.tensor(probed.gains), scores.diff(), atol=1e-6, rtol=1e-4)
        assert probed.labels == probe.labels
        stated = next(
            k for k, label in enumerate(probe.labels) if label == "own" and probe.labels[: k + 1].count("own") == 3
        )
        assert probed.before == [k < stated for k in range(len(probe.labels))]


def test_a_model_that_shares_no_prefixes_is_looked_through_too(monkeypatch):
    scorer = scorer_of()
    asked = record("<think>One.\n\nTwo.\n\nIt is 2.</think>2")
    packed = Looker(scorer, 0).look(asked, "g", 1.0, [], 0)
    monkeypatch.setattr("l2t_verl.preflight.seen.why_not_packed", lambda model: "windows")
    expanded = Looker(scorer, 0).look(asked, "g", 1.0, [], 0)
    assert expanded.scores == pytest.approx(packed.scores, abs=1e-5)
    for one, other in zip(packed.probes, expanded.probes, strict=True):
        assert replace(one, gains=[]) == replace(other, gains=[])
        assert one.gains == pytest.approx(other.gains, abs=1e-5)


def test_a_foreign_step_that_states_the_answer_is_left_out(monkeypatch):
    pools = []
    monkeypatch.setattr(
        "l2t_verl.preflight.seen.with_needless", lambda *given: pools.append(given[2]) or with_needless(*given)
    )
    scorer = scorer_of()
    Looker(scorer, 0).look(record("<think>One.\n\nSo 2.</think>2"), "g", 1.0, ["<think>Nothing.\n\nIt is 2.</think>2"], 0)
    texts = [scorer.tokenizer.decode(piece) for piece in pools[0]]
    assert len(texts) == 1
    assert "Nothing" in texts[0]


def test_what_was_seen_comes_back_from_its_file(tmp_path):
    seen = Looker(scorer_of(), 0).look(record("<think>One.\n\nSo 2.</think>2"), "g", 1.0, [], 0)
    file = SeenFile(tmp_path / "seen.jsonl")
    file.add(seen)
    assert SeenFile(tmp_path / "seen.jsonl").by_key == {seen.key: seen}


# ---- figures


def seen(group: str, outcome: float, scores: list[float], stated: int = NOWHERE, probes=(), tokens: int = 100) -> Seen:
    ends = [10 * (k + 1) for k in range(len(scores) - 1)]
    return Seen(f"{group}{outcome}{scores}", group, outcome, tokens, ends, scores, stated, 30, list(probes))


def test_figures_by_hand():
    probe = Probed(*WAY, ["own", "again", "own", "foreign"], [True, True, False, False], [0.3, 0.1, 0.0, 0.2])
    found = sight(
        [
            seen("a", 1.0, [0.1, 0.2, 0.6, 0.8], stated=1, probes=[probe]),
            seen("a", 0.0, [0.1, 0.3, 0.2, 0.1]),
            seen("b", 1.0, [0.2, 0.2, 0.4], stated=0),
            seen("b", 0.0, [0.2]),
        ],
        WAY,
    )
    assert (found.groups, found.rollouts, found.without_episodes) == (2, 4, 1)
    assert found.rise.value == pytest.approx(0.1)  # of `a`'s right one alone: `b` states it in its first episode
    assert found.noise == pytest.approx(0.05)
    assert (found.within.value, found.within.of) == (1.0, 1)  # `b` has no wrong one with an episode
    assert found.within_halfway.value == 1.0
    assert found.useful.value == pytest.approx((1 + 1) / 4)  # of 0.3, 0.0 over 0.1, 0.2
    assert found.useful_before.value == 1.0
    assert found.redundant.value == pytest.approx((10 / 30 + 10 / 20) / 2)
    assert found.forced == pytest.approx(0.3)
    assert found.gains == pytest.approx((0.7 + 0.4 + 0.2 + 0.0) / 4)
    assert list(found.ways) == [WAY]


def test_an_interval_covers_the_mean_as_often_as_it_says():
    print("seed 5")
    draws = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        values = draws.normal(size=60)
        found = estimate(list(values), lambda value: [(float(value), 1.0)], trial)
        assert found.value == pytest.approx(values.mean())
        covered += found.low < 0 < found.high
    assert 0.88 < covered / 200 < 0.99


def test_without_anything_to_estimate_nothing_is_known():
    found = estimate([[1], [2]], lambda group: [], 0)
    assert math.isnan(found.value)
    assert f"{found:.2f}" == "not known"
    assert f"{Estimate(0.5, 0.4, 0.6, 3):.1f}" == "0.5 (0.4 to 0.6)"
    with pytest.raises(ValueError, match="no response with an outcome"):
        outcomes({})
    with pytest.raises(ValueError, match="no response was looked at"):
        sight([], WAY)


# ---- verdicts


def sight_of(rise=(0.1, 0.05, 0.15), useful=(0.7, 0.6, 0.8), of=50):
    empty = sight([seen("a", 1.0, [0.1, 0.2])], WAY)
    return replace(empty, rise=Estimate(*rise, of), useful_before=Estimate(*useful, of), noise=0.05)


BLIND = {"useful": (0.55, 0.45, 0.65)}


@pytest.mark.parametrize(
    ("all_right", "all_wrong", "sees", "advice", "sure"),
    [
        (0.97, 0.0, {}, Advice.OTHER_DATA, "Sure, as far as"),
        (0.0, 0.95, BLIND, Advice.OTHER_DATA, "Sure that GRPO learns next to nothing here. Sure that J"),
        (0.0, 0.95, {}, Advice.L2T, "Not sure: where right answers were rare"),
        (0.3, 0.3, BLIND, Advice.GRPO, "Sure that J"),
        (0.3, 0.3, BLIND | {"of": 9}, Advice.GRPO, "Not sure that J sees nothing: that is from 9 questions, and 30"),
        (0.3, 0.3, {"rise": (0.01, -0.02, 0.04)}, Advice.GRPO, "Sure that J"),
        (0.3, 0.3, {"rise": (math.nan,) * 3, "of": 0}, Advice.GRPO, "Not sure"),
        (0.3, 0.3, {}, Advice.LENGTH_PENALTY, "As sure as small models"),
    ],
)
def test_verdicts(all_right, all_wrong, sees, advice, sure):
    found = verdict(Outcomes(100, 400, 0.5, all_right, all_wrong, 300.0, 40.0), sight_of(**sees))
    assert found.advice is advice
    assert found.sure.startswith(sure)
    assert found.headline
    assert any("GRPO learns from the first alone" in reason for reason in found.reasons)


def test_the_page_holds_the_verdict_and_whole_tables():
    found = Outcomes(100, 400, 0.5, 0.3, 0.3, 300.0, 40.0)
    advice = verdict(found, sight_of())
    text = page("Before", advice, found, sight_of(), load_config({}), 1600, ["a note"])
    assert advice.headline in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
    assert "credit.method=length_penalty" in text


def test_what_has_been_shown_is_what_the_comparison_says():
    text = (ROOT / "recipes" / "controlled" / "RESULTS.md").read_text()
    short = text.split("<!-- short -->")[1].split("<!-- end -->")[0]
    rows = {
        (cells[2], cells[5], cells[6])
        for line in short.splitlines()
        if len(cells := [c.strip() for c in line.split("|")]) > 6
    }
    for credit, _, seeds, points, tokens in SHOWN:
        assert (str(seeds), points, tokens) in rows, credit


# ---- the command


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def rollouts(tmp_path) -> Path:
    rows = [
        {
            "question": f"{n} + 1?",
            "answer": str(n + 1),
            "response": f"<think>Take {n}.\n\nAdd one.\n\n{end}</think>\\boxed{{{end}}}",
        }
        for n in range(3, 7)
        for end in (n + 1, n, n + 1)
    ]
    file = tmp_path / "rollouts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_responses_that_are_there_get_their_verdict(model, rollouts, tmp_path):
    line = (model, "--rollouts", rollouts, "--out", tmp_path / "out", "--set", "episodes.method=paragraphs", "--minutes", 0)
    done = run(*line)
    assert done.exit_code in {advice.value for advice in Advice}, done.output
    text = (tmp_path / "out" / "preflight.md").read_text()
    assert text in done.output
    assert "| questions, responses | 4, 12 |" in text
    assert "| right | 66.7% |" in text
    assert "- looked at 12 of 12 responses\n" in text
    kept = (tmp_path / "out" / "seen.jsonl").read_bytes()
    figures = json.loads((tmp_path / "out" / "preflight.json").read_text())
    assert figures["outcomes"]["groups"] == 4
    assert Advice[figures["verdict"]["advice"].upper()].value == done.exit_code
    again = run(*line)
    assert again.exit_code == done.exit_code
    assert (tmp_path / "out" / "seen.jsonl").read_bytes() == kept  # nothing was looked at twice
    assert (tmp_path / "out" / "preflight.md").read_text() == text


def test_when_the_time_is_over_the_next_start_goes_on(model, rollouts, tmp_path):
    line = (
        model,
        "--rollouts",
        rollouts,
        "--out",
        tmp_path / "out",
        "--set",
        "episodes.method=paragraphs",
        "--minutes",
        1e-9,
    )
    for count in (1, 2, 3, 4):
        done = run(*line)
        assert len({row["group"] for row in read_jsonl(tmp_path / "out" / "seen.jsonl")}) == count
        assert f"looked at {3 * count} of 12 responses" in done.output
        assert ("start it again to look at more" in done.output) is (count < 4)


def test_what_cannot_be_scored_is_named_and_counted(model, tmp_path):
    file = tmp_path / "rollouts.jsonl"
    good = {"question": "1 + 1?", "answer": "2", "response": "<think>One.\n\nSo 2.</think>\\boxed{2}", "outcome": 1}
    rows = [good, good | {"response": "word " * 3000}, good | {"question": "2?"}, {"question": "3?"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run(model, "--rollouts", file, "--out", tmp_path / "out")
    assert "rollouts.jsonl:2 is skipped: " in done.output
    assert "rollouts.jsonl:4 is skipped: no column response" in done.output
    assert "- 2 responses were skipped" in (tmp_path / "out" / "preflight.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name DATA to sample, or --rollouts FILE, and not both"),
        (("gsm8k", "--rollouts", "a.jsonl"), "name DATA to sample, or --rollouts FILE, and not both"),
        (("gsm9k",), "there is no data set 'gsm9k' here"),
        (("mbpp",), "mbpp asks for programs"),
        (("--rollouts", "nowhere.jsonl"), "nowhere.jsonl is not there"),
        (("gsm8k", "--set", "beta=-1"), "beta"),
        (("gsm8k", "--instruction", "both"), "take one of adaptive, fixed, none, given"),
    ],
)
def test_what_is_wrong_is_said(arguments, said, model, tmp_path):
    done = run(model, *arguments, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert said in done.output


def test_training_data_are_asked_as_they_stand_and_sampled_once(model, tmp_path, monkeypatch):
    rows = [
        {"prompt": [{"role": "user", "content": f"{n} + 1? In a box."}], "reward_model": {"ground_truth": str(n + 1)}}
        for n in range(5)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    engines = []

    def engine(path, **settings):
        engines.append(TinyEngine(path))
        return engines[-1]

    monkeypatch.setattr(command, "VllmEngine", engine)
    line = (
        model,
        tmp_path / "train.parquet",
        "--questions",
        3,
        "--samples",
        2,
        "--max-tokens",
        12,
        "--out",
        tmp_path / "out",
    )
    done = run(*line)
    assert done.exit_code in {advice.value for advice in Advice}, done.output
    asked = [request for batch in engines[0].asked for request in batch]
    assert len(asked) == 6
    assert {request.question.split("? ")[1] for request in asked} == {"In a box."}  # nothing is added to it
    assert {(request.temperature, request.top_p, request.max_tokens) for request in asked} == {(1.0, 1.0, 12)}
    assert len(read_jsonl(tmp_path / "out" / "samples.jsonl")) == 6
    run(*line)
    assert engines[1].asked == []  # what was sampled is not sampled again


def test_questions_are_drawn_by_the_seed(tmp_path):
    rows = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(40)]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, left_out = problems(str(file), 10, 0)
    assert len(first) == 10
    assert left_out == 0
    assert first == problems(str(file), 10, 0)[0] != problems(str(file), 10, 1)[0]
