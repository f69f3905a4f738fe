"""`l2t-verl preflight`: what is seen of a response, figures, verdicts, and the command."""

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from omegaconf import OmegaConf
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
from l2t_verl.preflight.page import page
from l2t_verl.preflight.responses import Response, asked
from l2t_verl.preflight.seen import NOWHERE, Compared, Looker, Seen, SeenFile
from l2t_verl.preflight.verdict import L2T_SETTINGS, PENALTY_SETTINGS, Advice, verdict
from recipes.controlled import foretold
from recipes.controlled.comparison import load
from recipes.controlled.table import FILE as TABLE
from recipes.controlled.task import problems

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
    assert {compared.segmenter for compared in seen.compared} == {"paragraphs", "discourse_markers"}
    kinds = {(compared.suffix, compared.kind) for compared in seen.compared if compared.segmenter == "paragraphs"}
    forward = ("geometric", "probability", "mean_probability", "smoothed_logprob", "mean_logprob")
    assert kinds == set(itertools.product(("configured", "####", "sentence"), forward))


def test_own_and_needless_steps_are_read_in_the_same_place():
    """One forward for all of it, against one for each text, with the template of its own."""
    scorer = scorer_of()
    asked = record("<think>One.\n\nThen two.\n\nIt is 2.\n\nSo it is.</think>2")
    looker = Looker(scorer, 3)
    foreign = "<think>Other.\n\nWords here.\n\nIt is 2.</think>2"
    seen = looker.look(asked, "g", 1.0, [foreign], 0)
    prompt, response = scorer.prompt(asked), scorer.response(asked)
    pieces = [response[a:b] for a, b in itertools.pairwise([0, *seen.ends])]
    ids = scorer.tokenizer.encode(foreign, add_special_tokens=False)
    cut = [0, *scorer.ends(prompt, ids)]
    allowed = [ids[a:b] for a, b in itertools.pairwise(cut)][1:2]  # the first holds a mark, the last the answer

    def score(tokens, compared):
        template = looker.templates[compared.suffix]
        end = [len(tokens)] if tokens else []
        target = gain.answer_targets(scorer.tokenizer, prompt, tokens, end, "2", template)[-1]
        suffix, answer = list(target.suffix_ids), list(target.answer_ids)
        return gain.answer_scores(scorer.model, prompt, tokens, end, suffix, answer, kind=compared.kind)[-1].item()

    for compared in (compared for compared in seen.compared if compared.segmenter == "paragraphs"):
        assert set(compared.steps) == {"again", "foreign"}
        assert compared.before == [True, False, False]  # of the second, third and fourth episode; the third states it
        for place, (step, own, needless) in enumerate(zip(compared.steps, compared.own, compared.needless, strict=True), 1):
            before = response[: seen.ends[place - 1]]
            base = score(before, compared)
            assert own == pytest.approx(score(before + pieces[place], compared) - base, abs=1e-5)
            among = allowed if step == "foreign" else pieces[1:place]  # the first holds a mark
            assert any(needless == pytest.approx(score(before + piece, compared) - base, abs=1e-5) for piece in among)


def test_a_model_that_shares_no_prefixes_is_looked_through_too(monkeypatch):
    scorer = scorer_of()
    asked = record("<think>One.\n\nTwo.\n\nThree.\n\nIt is 2.</think>2")
    packed = Looker(scorer, 0).look(asked, "g", 1.0, ["<think>A.\n\nB.</think>"], 0)
    monkeypatch.setattr("l2t_verl.preflight.seen.why_not_packed", lambda model: "windows")
    expanded = Looker(scorer, 0).look(asked, "g", 1.0, ["<think>A.\n\nB.</think>"], 0)
    assert expanded.scores == pytest.approx(packed.scores, abs=1e-5)
    for one, other in zip(packed.compared, expanded.compared, strict=True):
        assert replace(one, own=[], needless=[]) == replace(other, own=[], needless=[])
        assert one.own == pytest.approx(other.own, abs=1e-5)
        assert one.needless == pytest.approx(other.needless, abs=1e-5)


def test_several_accepted_answers_count_by_their_best():
    scorer, looker = scorer_of(), Looker(scorer_of(), 0)
    asked = record("<think>One.\n\nTwo.\n\nIt is 2.</think>2")
    each = [looker.look(replace(asked, answers=(answer,)), "g", 1.0).scores for answer in ("2", "two")]
    both = looker.look(replace(asked, answers=("2", "two")), "g", 1.0, [], 0)
    assert both.scores == pytest.approx([max(pair) for pair in zip(*each, strict=True)])
    assert both.scores == pytest.approx(scorer.rollout(replace(asked, answers=("2", "two")), 1.0, "").scores)


def test_responses_that_hold_no_place_are_not_compared():
    looker = Looker(scorer_of(), 0)
    assert looker.look(record("<think>It is 2.</think>2"), "g", 1.0, [], 0).compared == []


def test_surprise_cuts_without_gradients():
    scorer = scorer_of({"episodes": {"method": "surprise"}})
    seen = Looker(scorer, 0).look(
        record("<think>One and then another one, which is two.</think>2"), "g", 1.0, ["<think>3"], 0
    )
    assert all(parameter.grad is None for parameter in scorer.model.parameters())
    assert len(seen.scores) == len(seen.ends) + 1


def test_what_was_seen_comes_back_from_its_file(tmp_path):
    seen = Looker(scorer_of(), 0).look(record("<think>One.\n\nTwo.\n\nSo 2.</think>2"), "g", 1.0, [], 0)
    assert seen.compared
    file = SeenFile(tmp_path / "seen.jsonl")
    file.add(seen)
    assert SeenFile(tmp_path / "seen.jsonl").by_key == {seen.key: seen}


# ---- figures


def seen(group: str, outcome: float, scores: list[float], stated: int = NOWHERE, compared=(), tokens: int = 100) -> Seen:
    ends = [10 * (k + 1) for k in range(len(scores) - 1)]
    return Seen(f"{group}{outcome}{scores}", group, outcome, tokens, ends, scores, stated, 30, list(compared))


def test_figures_by_hand():
    places = Compared(*WAY, ["again", "foreign", "again"], [True, True, False], [0.3, 0.1, 0.0], [0.1, 0.2, 0.0])
    found = sight(
        [
            seen("a", 1.0, [0.1, 0.2, 0.6, 0.8], stated=1, compared=[places]),
            seen("a", 0.0, [0.1, 0.3, 0.2, 0.1]),
            seen("b", 1.0, [0.2, 0.2, 0.4], stated=0),
            seen("b", 0.0, [0.2]),
        ],
        WAY,
    )
    assert (found.groups, found.rollouts, found.without_episodes) == (2, 4, 1)
    assert found.rise.value == pytest.approx(0.1)  # of `a`'s right one alone: `b` states it in its first episode
    assert sight([seen("a", 1.0, [0.1, 0.2, 0.6])], WAY).rise.value == pytest.approx(0.5)  # stated after its episodes alone
    assert found.noise == pytest.approx(0.05)
    assert (found.within.value, found.within.of) == (1.0, 1)  # `b` has no wrong one with an episode
    assert found.within_halfway.value == 1.0
    assert found.useful.value == pytest.approx(1.5 / 3)
    assert found.useful_before.value == pytest.approx(1 / 2)
    assert found.redundant.value == pytest.approx((10 / 30 + 10 / 20) / 2)
    assert found.forced == pytest.approx(0.3)
    assert found.gains == pytest.approx((0.7 + 0.4 + 0.2 + 0.0) / 4)
    assert list(found.ways) == [WAY]


def test_a_j_that_knows_nothing_of_what_is_said_is_at_chance():
    """Its gains shrink with their place, whatever stands there: own steps are not ahead by standing earlier."""
    print("seed 6")
    draws = np.random.default_rng(6)
    looked = []
    for question in range(400):
        places = range(1, 4)
        own, needless = ([1 / (k + 1) + draws.normal() for k in places] for _ in range(2))
        compared = Compared(*WAY, ["again"] * 3, [True] * 3, own, needless)
        looked.append(seen(str(question), 1.0, [0.1, 0.2], compared=[compared]))
    assert sight(looked, WAY).useful_before.value == pytest.approx(0.5, abs=0.05)


def test_groups_are_of_two_or_more():
    found = outcomes({"a": [(1.0, 5)], "b": [(1.0, 5), (0.0, 7)]})
    assert (found.groups, found.alone, found.mixed, found.rollouts, found.per_group) == (1, 1, 1.0, 3, 2.0)
    with pytest.raises(ValueError, match="no question has two responses or more"):
        outcomes({"a": [(1.0, 5)]})
    mixed = outcomes({str(n): [(float(n < 9), 1)] * 2 for n in range(10)}).mixed
    assert f"{mixed:.0%}" == "0%"


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
    with pytest.raises(ValueError, match="no question has two responses"):
        outcomes({})
    with pytest.raises(ValueError, match="no response was looked at"):
        sight([], WAY)


# ---- verdicts


def sight_of(rise=(0.1, 0.05, 0.15), useful=(0.7, 0.6, 0.8), of=50):
    empty = sight([seen("a", 1.0, [0.1, 0.2])], WAY)
    return replace(empty, rise=Estimate(*rise, of), useful_before=Estimate(*useful, of), noise=0.05)


def outcomes_of(all_right: float, all_wrong: float, groups: int = 100) -> Outcomes:
    return Outcomes(groups, 0, 4 * groups, 4.0, 0.5, 1 - all_right - all_wrong, all_right, all_wrong, 300.0, 40.0)


BLIND = {"useful": (0.52, 0.45, 0.59)}
UNSURE = {"useful": (0.60, 0.45, 0.75)}
NOTHING = {"rise": (math.nan,) * 3, "useful": (math.nan,) * 3, "of": 0}


@pytest.mark.parametrize(
    ("of_groups", "sees", "advice", "sure"),
    [
        ((0.95, 0.0), {}, Advice.OTHER_DATA, "Sure of the groups of 4"),
        ((1.0, 0.0, 2), {}, Advice.OTHER_DATA, "Not sure: that is from 2 questions"),
        ((0.47, 0.46), {}, Advice.L2T, "Not sure: where right answers were rare"),
        ((0.0, 0.95), BLIND, Advice.OTHER_DATA, "did not foretell what its credits came to"),
        ((0.0, 0.95), NOTHING, Advice.OTHER_DATA, "Of J not sure: only 0 questions"),
        ((0.0, 0.95), {"of": 3}, Advice.OTHER_DATA, "Of J not sure: only 3 questions"),  # however clear they are
        ((0.0, 0.95), {}, Advice.L2T, "Not sure: where right answers were rare"),
        ((0.3, 0.3), BLIND, Advice.GRPO, "did not foretell what its credits came to"),
        ((0.3, 0.3), UNSURE, Advice.GRPO, "did not foretell what its credits came to"),
        ((0.3, 0.3), BLIND | {"of": 9}, Advice.GRPO, "Of J not sure: only 9 questions"),
        ((0.3, 0.3), {"rise": (-0.02, -0.04, -0.01)}, Advice.GRPO, "did not foretell what its credits came to"),
        ((0.3, 0.3), NOTHING, Advice.GRPO, "Of J not sure: only 0"),
        ((0.3, 0.3), {}, Advice.LENGTH_PENALTY, "As sure as small models"),
        ((0.3, 0.3, 10), {}, Advice.LENGTH_PENALTY, "Not sure: that is from 10 questions. As sure as"),
    ],
)
def test_verdicts(of_groups, sees, advice, sure):
    found = verdict(outcomes_of(*of_groups), sight_of(**sees))
    assert found.advice is advice
    assert sure in found.sure
    assert found.headline
    assert any("GRPO learns from the first alone" in reason for reason in found.reasons)
    assert not any("not known" in reason for reason in found.reasons)


@pytest.mark.parametrize("settings", [L2T_SETTINGS, PENALTY_SETTINGS])
def test_what_is_to_be_pasted_is_a_configuration(settings):
    tree = OmegaConf.from_dotlist([item.lstrip("+") for item in settings])
    load_config(OmegaConf.to_container(tree.algorithm.get("l2t", {})))
    assert tree.algorithm.adv_estimator == "l2t"


def test_the_page_holds_the_verdict_and_whole_tables():
    found = outcomes_of(0.3, 0.3)
    advice = verdict(found, sight_of())
    text = page("Before", advice, found, sight_of(), load_config({}), 1600, ["a note"])
    assert advice.headline in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
    assert "credit.method=length_penalty" in text


def test_what_has_been_shown_is_what_the_comparison_says():
    text = (ROOT / "recipes" / "controlled" / "RESULTS.md").read_text()
    columns = {"often": ("short", (2, 5, 6)), "rarely": ("parts", (3, 8, 9))}  # of seeds and of differences from GRPO
    rows = {
        (right, *(cells[number] for number in numbers))
        for right, (mark, numbers) in columns.items()
        for line in text.split(f"<!-- {mark} -->")[1].split("<!-- end -->")[0].splitlines()
        if len(cells := [cell.strip() for cell in line.split("|")]) > max(numbers)
    }
    for right, credit, _, seeds, points, tokens in SHOWN:
        assert (right, str(seeds), points, tokens) in rows, credit


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
    assert done.exit_code == Advice.GRPO.value, done.output  # four questions show nothing of J
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
        assert ("1e-09 minutes were over; start it again to look at more" in done.output) is (count < 4)


def test_what_cannot_be_scored_is_named_and_counted(model, tmp_path):
    file = tmp_path / "rollouts.jsonl"
    good = {"question": "1 + 1?", "answer": "2", "response": "<think>One.\n\nSo 2.</think>\\boxed{2}", "outcome": 1}
    rows = [
        good,
        good | {"response": "word " * 3000},
        good | {"response": "<think>1.</think>3", "outcome": 0},
        {"question": "3?"},
    ]
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
        (("gsm8k", "--set", "gain.kind=monte_carlo"), "samples forced answers"),
        (("gsm8k", "--no-chat"), "--no-chat is for --rollouts"),
        (("gsm8k", "--server", "http://user:marked-secret@host/v1"), "host"),
        (("--rollouts", "a.jsonl", "--server", "http://host/v1"), "leave one of them out"),
        (("gsm8k", "--instruction", "both"), "take one of adaptive, fixed, none, given"),
    ],
)
def test_what_is_wrong_is_said(arguments, said, model, tmp_path):
    done = run(model, *arguments, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert said in done.output
    assert not (tmp_path / "out" / "settings.json").exists()  # the corrected line may have the same folder


def test_training_data_are_asked_as_they_stand_and_sampled_once(model, tmp_path, monkeypatch):
    rows = [
        {"prompt": [{"role": "user", "content": f"{n} + 1? In a box."}], "reward_model": {"ground_truth": str(n + 1)}}
        for n in range(5)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    engines = []

    def engine(path, **settings):
        engines.append(TinyEngine(path))
        engines[-1].close = lambda: None
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
    assert "of 6 responses were cut off at 12 tokens" in done.output
    asked = [request for batch in engines[0].asked for request in batch]
    assert len(asked) == 6
    assert {request.question.split("? ")[1] for request in asked} == {"In a box."}  # nothing is added to it
    assert {(request.temperature, request.top_p, request.max_tokens) for request in asked} == {(1.0, 1.0, 12)}
    assert len(read_jsonl(tmp_path / "out" / "samples.jsonl")) == 6
    run(*line)
    assert len(engines) == 1  # what was sampled is not sampled again
    more = run(*line[:3], 5, *line[4:])  # the same three and two more
    assert more.exit_code in {advice.value for advice in Advice}, more.output
    assert [len(batch) for batch in engines[1].asked] == [10]
    assert len(read_jsonl(tmp_path / "out" / "samples.jsonl")) == 10
    rows[0]["reward_model"]["ground_truth"] = "7"
    pd.DataFrame(rows).to_parquet(tmp_path / "train.parquet")
    refused = run(*line)  # other questions under the same name
    assert refused.exit_code == 1
    assert "file" in refused.output


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1?"}]}, "name the --rollouts"),
        ({"extra_info": {"tests": "assert f()"}}, "asks for programs"),
    ],
)
def test_training_data_that_would_be_asked_otherwise_are_refused(row, said, model, tmp_path):
    whole = {"prompt": [{"role": "user", "content": "1 + 1?"}], "reward_model": {"ground_truth": "2"}} | row
    pd.DataFrame([whole]).to_parquet(tmp_path / "train.parquet")
    done = run(model, tmp_path / "train.parquet", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert said in done.output


def test_a_server_is_asked_by_the_model_s_own_name(model, tmp_path, monkeypatch):
    rows = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(2)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = []

    def server(*arguments):
        given.append(arguments)
        engine = TinyEngine(model)
        engine.close = lambda: None
        return engine

    monkeypatch.setattr(command, "server_of", server)
    monkeypatch.chdir(model.parent)
    line = (model.name, tmp_path / "questions.jsonl", "--server", "http://host/v1", "--max-tokens", 8, "--samples", 2)
    done = run(*line, "--out", tmp_path / "out")
    assert done.exit_code in {advice.value for advice in Advice}, done.output
    assert given[0][:3] == ("http://host/v1", model.name, str(model))


def test_equal_responses_are_compared_once_and_each_has_its_own_outcome(tmp_path):
    text = "<think>One.\n\nTwo.\n\nIt is 2.</think>2"
    responses = [Response(record(text), "g", outcome, 9) for outcome in (1.0, 1.0, 0.0)]
    looked, left, unscored = command.look_at_all(responses, Looker(scorer_of(), 0), SeenFile(tmp_path / "seen.jsonl"), 0.0)
    assert (left, unscored) == (0, 0)
    assert [one.outcome for one in looked] == [1.0, 1.0, 0.0]
    assert [bool(one.compared) for one in looked] == [True, False, False]


def test_questions_are_drawn_by_the_seed(tmp_path):
    rows = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(40)]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = asked(str(file), 10, 0)
    assert len(first.problems) == 10
    assert (first.left_out, first.instructed) == (0, False)
    assert first == asked(str(file), 10, 0) != asked(str(file), 10, 1)
    assert asked(str(file), 20, 0).problems[:10] == first.problems


def test_the_comparison_s_starts_are_foretold(tmp_path):
    """A few questions to a real small model; with the token ids that it sampled."""
    start = ROOT / "recipes" / "controlled" / "starts" / "1"
    found = foretold.foretell(start, tmp_path, list(itertools.islice(problems("validation", 0), 3)))
    assert found["advice"].upper() in Advice.__members__
    assert 0.0 <= found["accuracy"] <= 1.0
    line = foretold.table({"starts": {"1": found}}, load(TABLE), []).splitlines()[2]
    assert line.startswith(f"| 1 | {found['advice'].replace('_', ' ')} |")
    assert "0.0 ± 1.2" in line  # the length penalty's, as in the table by start
