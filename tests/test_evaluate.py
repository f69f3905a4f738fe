"""`python -m l2t_verl.evaluate`: estimates, samples that survive, budgets, tables; and, slow, vLLM and a server."""

import itertools
import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import byte_tokenizer, write_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from l2t_verl.data import Problem
from l2t_verl.data.problems import Tests
from l2t_verl.evaluate import __main__ as command
from l2t_verl.evaluate import run as evaluation
from l2t_verl.evaluate.budgets import cut
from l2t_verl.evaluate.compare import comparison, write_comparison
from l2t_verl.evaluate.engines import EngineError, Generated, prompt_ids
from l2t_verl.evaluate.finished import published_numbers, published_of, read
from l2t_verl.evaluate.grade import vote
from l2t_verl.evaluate.model import ModelError, _shards, fingerprint, resolved
from l2t_verl.evaluate.parallel import EngineProcesses, engines_wanted, groups_of_gpus
from l2t_verl.evaluate.results import results, table
from l2t_verl.evaluate.run import Settings, Task, sample_all, seed_of
from l2t_verl.evaluate.statistics import bootstrap, majority, pass_at_k
from l2t_verl.evaluate.store import Sample, Store, without_nan
from l2t_verl.files import FileError, check_settings
from l2t_verl.gain import ForcingTemplate
from l2t_verl.grading import Grader

FIXTURES = Path(__file__).parent / "fixtures"
SEED = 20261127
SAMPLE = Sample("b", "1", 0, 0, "é \\boxed{2}", "stop", 5, 0, 1.0, "ok", "2")


class TinyEngine:
    """A real model, one token after the other: the engine's protocol without vLLM's minute of starting."""

    def __init__(self, folder: Path, fails_at: int | None = None):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder)
        self.fails_at, self.asked = fails_at, []

    @torch.no_grad()
    def generate(self, requests):
        self.asked.append(list(requests))
        if len(self.asked) == self.fails_at:
            raise KeyboardInterrupt
        return [self._one(request) for request in requests]

    def _one(self, request):
        generator = torch.Generator().manual_seed(request.seed)
        ids = prompt_ids(self.tokenizer, request)
        begun = len(ids)
        while len(ids) < begun + request.max_tokens and (len(ids) == begun or ids[-1] != self.tokenizer.eos_token_id):
            logits = self.model(torch.tensor([ids])).logits[0, -1]
            logits[self.tokenizer.eos_token_id] += 3  # a random model would hardly ever end
            ids.append(torch.multinomial(logits.softmax(-1), 1, generator=generator).item())
        new = ids[begun:]
        stopped = new[-1] == self.tokenizer.eos_token_id
        return Generated(self.tokenizer.decode(new, skip_special_tokens=True), len(new), "stop" if stopped else "length")

    def close(self):
        pass


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("evaluate") / "model")


@pytest.fixture(scope="module")
def grader():
    pool = Grader(1, 60.0)
    yield pool
    pool.close()


def run(*arguments: object):
    return CliRunner().invoke(command.app, [str(argument) for argument in arguments])


def sums(count: int) -> list[Problem]:
    return [Problem(str(i), f"{i}+1?", str(i + 1), level=("easy", "hard")[i % 2]) for i in range(count)]


# ---- estimates


def test_pass_at_k_is_the_mean_over_all_choices_of_k():
    for n, correct in ((5, 0), (5, 2), (6, 6)):
        outcomes = [1.0] * correct + [0.0] * (n - correct)
        for k in range(1, n + 1):
            chosen = [max(chosen) for chosen in itertools.combinations(outcomes, k)]
            assert pass_at_k(n, correct, k) == pytest.approx(np.mean(chosen))


def test_the_bootstrap_s_interval_covers():
    print("seed", SEED)
    draw, covered = np.random.default_rng(SEED), 0
    for _ in range(200):
        low, high = bootstrap(draw.binomial(4, 0.3, size=60) / 4)
        covered += low <= 0.3 <= high
    assert 0.89 < covered / 200 < 0.99
    assert all(math.isnan(end) for end in bootstrap(np.array([1.0])))
    low, high = bootstrap(np.full(10, 3.0), ratio_to=np.full(10, 4.0))
    assert low == high == 0.75


def test_the_most_frequent_answer_counts():
    assert majority([None, None, "1", "2"], [0, 0, 1, 0], 4) == 1.0  # what is not there votes for nothing
    assert majority([None, None], [0, 0], 2) == 0.0
    assert majority(["2", "1", "1", "2"], [0, 1, 1, 0], 2) == 0.5


def test_a_sample_s_seed_is_its_own():
    tasks = [Task(b, p, i, budget) for b in "ab" for p in sums(3) for i in range(3) for budget in (0, 5)]
    assert len({seed_of(0, task) for task in tasks} | {seed_of(1, task) for task in tasks}) == 2 * len(tasks)


def test_programs_vote_for_nothing():
    assert vote("\\boxed{1}", Problem("0", "?", "code", tests=Tests("assert True"))) is None


# ---- samples on disk


def test_a_torn_line_is_cut_off_and_the_rest_is_kept(tmp_path):
    file = tmp_path / "samples.jsonl"
    samples = [replace(SAMPLE, index=i, response="line\u2028break\ud800" * i) for i in range(3)]
    Store(file).add(samples)
    whole = file.read_bytes()
    for length in range(len(whole) + 1):
        file.write_bytes(whole[:length])
        store = Store(file)
        assert list(store.samples.values()) == samples[: whole[:length].count(b"\n")]
        store.add(samples)
        assert file.read_bytes() == whole  # nothing lost, nothing twice


def test_a_line_that_is_no_sample_is_named(tmp_path):
    (tmp_path / "samples.jsonl").write_text('{"benchmark": "b"}\n')
    with pytest.raises(FileError, match=r"samples\.jsonl, line 1 is no sample"):
        Store(tmp_path / "samples.jsonl")


def test_a_full_disk_leaves_whole_lines_and_says_what_to_do(tmp_path):
    """A real limit on the size of files, in a process of its own."""
    program = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom l2t_verl.evaluate.store import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "store = Store(Path(sys.argv[1]))\n"
        "for i in range(100):\n    store.add([Sample('b', '1', i, 0, 'x' * 100, 'stop', 5, 0, 1.0, 'ok', '2')])\n"
    )
    file = tmp_path / "samples.jsonl"
    done = subprocess.run([sys.executable, "-c", program, file], capture_output=True, text=True, check=False)
    assert "make room and start the same command again" in done.stderr
    assert 5 < len(Store(file).samples) < 20
    assert file.read_bytes().endswith(b"}\n")


def test_other_settings_or_another_model_are_refused_with_what_differs(tmp_path):
    check_settings(tmp_path / "settings.json", {"model": "a", "samples": 4})
    check_settings(tmp_path / "settings.json", {"model": "a", "samples": 4})
    with pytest.raises(FileError, match=r"samples: 4 there, 8 now"):
        check_settings(tmp_path / "settings.json", {"model": "a", "samples": 8})


def test_a_model_is_known_by_its_weights(tmp_path, model):
    other = write_model(tmp_path / "other", seed=1)
    again = write_model(tmp_path / "again")
    assert fingerprint(str(again)) == fingerprint(str(model)) != fingerprint(str(other))
    assert fingerprint("org/name") == "org/name"
    assert resolved(str(model), tmp_path) == str(model.resolve())
    assert resolved("org/name", tmp_path) == "org/name"
    with pytest.raises(ModelError, match="is not there"):
        resolved("./nowhere", tmp_path)
    with pytest.raises(ModelError, match="is not there"):
        resolved("runs/gsm8k/checkpoints", tmp_path)  # no name on the hub has two slashes
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="holds neither weights"):
        resolved(str(tmp_path / "empty"), tmp_path)


def test_the_checkpoint_that_verl_marked_as_whole_counts(tmp_path):
    def shards(step: str, ranks: tuple[int, ...], size: int = 2) -> Path:
        actor = tmp_path / step / "actor"
        actor.mkdir(parents=True)
        for rank in ranks:
            (actor / f"model_world_size_{size}_rank_{rank}.pt").write_bytes(b"x")
        return actor

    first, newest = shards("global_step_9", (0, 1)), shards("global_step_10", (0, 1))
    shards("global_step_10.bak", (0, 1))
    assert _shards(tmp_path) == newest
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("9\n")
    assert _shards(tmp_path) == first
    (first / "model_world_size_2_rank_1.pt").unlink()
    with pytest.raises(ModelError, match=r"of 2 shards those of ranks \[1\] are missing"):
        _shards(tmp_path)
    assert _shards(tmp_path / "global_step_10") == newest == _shards(newest)


# ---- the run


SETTINGS = Settings(samples=2, temperature=1.0, max_tokens=30, kind="none", budgets=(4,), batch=3)


def test_a_run_that_was_interrupted_gives_the_file_of_one_that_was_not(tmp_path, model, grader):
    benchmarks = {"sums": sums(4)}
    whole = Store(tmp_path / "whole.jsonl")
    sample_all(TinyEngine(model), benchmarks, SETTINGS, whole, grader)
    assert len(whole.samples) == 4 * 2 * 2
    for fails_at in (1, 2, 5):
        file = tmp_path / f"{fails_at}.jsonl"
        with pytest.raises(KeyboardInterrupt):
            sample_all(TinyEngine(model, fails_at), benchmarks, SETTINGS, Store(file), grader)
        if file.exists():
            file.write_bytes(file.read_bytes()[:-7])  # and its last line is torn
        sample_all(TinyEngine(model), benchmarks, SETTINGS, store := Store(file), grader)
        assert store.samples == whole.samples
        assert results(store.samples, benchmarks, {}, SETTINGS) == results(whole.samples, benchmarks, {}, SETTINGS)
    engine = TinyEngine(model)
    sample_all(engine, benchmarks, SETTINGS, whole, grader)
    assert engine.asked == []  # nothing is missing


class MortalEngine(TinyEngine):
    """Its process is killed amid a batch if its device is named 1; says where it runs."""

    def __init__(self, folder: Path, fails_at: int | None = None):
        super().__init__(folder, fails_at)
        torch.set_num_threads(1)

    def generate(self, requests):
        if os.environ.get("CUDA_VISIBLE_DEVICES") == "1" and len(self.asked) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().generate(requests)


class UnwillingEngine:
    def __init__(self):
        raise EngineError(f"no room on GPU {os.environ['CUDA_VISIBLE_DEVICES']}")


def test_engines_side_by_side_give_the_file_of_one_also_after_one_was_killed(tmp_path, model, grader):
    benchmarks, settings = {"sums": sums(6)}, replace(SETTINGS, samples=1, max_tokens=6, batch=2)
    sample_all(TinyEngine(model), benchmarks, settings, one := Store(tmp_path / "one.jsonl"), grader)
    file = tmp_path / "two.jsonl"
    engines = EngineProcesses(partial(MortalEngine, model), ["0", "1"])
    try:
        with pytest.raises(EngineError, match=r"engine 2 of 2 \(CUDA_VISIBLE_DEVICES=1\) ended with status -9; what the"):
            sample_all(engines, benchmarks, settings, Store(file), grader)
    finally:
        engines.close()
    assert not any(process.is_alive() for process in engines.processes)
    assert 0 < file.read_bytes().count(b"\n") < len(one.samples)
    engines = EngineProcesses(partial(TinyEngine, model), [None])  # another number of them goes on
    try:
        sample_all(engines, benchmarks, settings, Store(file), grader)
    finally:
        engines.close()
    assert file.read_bytes() == one.file.read_bytes()


def test_an_engine_that_does_not_start_ends_the_others():
    before = set(multiprocessing.active_children())  # the grader's
    with pytest.raises(EngineError, match="no room on GPU 7"):
        EngineProcesses(UnwillingEngine, ["7"])
    assert set(multiprocessing.active_children()) <= before


def test_each_engine_gets_its_own_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert groups_of_gpus(1) == ["0", "1", "2", "3"]
    assert groups_of_gpus(3) == ["0,1,2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert groups_of_gpus(2) == ["4,5", "6,7"]
    assert [engines_wanted(asked, groups_of_gpus(2), 9, 2) for asked in ("auto", "1", "2")] == [2, 1, 2]
    assert engines_wanted("3", [], 9, 1) == 3  # as many processes on a CPU as are asked for
    for asked, said in (("3", "are enough for 2 engines of 2"), ("0", "a number from 1"), ("all", "or auto")):
        with pytest.raises(ValueError, match=said):
            engines_wanted(asked, groups_of_gpus(2), 9, 2)


def test_a_file_in_another_order_is_arranged_and_nothing_else_is_touched(tmp_path):
    file = tmp_path / "samples.jsonl"
    samples = [replace(SAMPLE, index=i, response="\ud800") for i in range(4)]
    Store(file).add([samples[i] for i in (2, 3, 1, 0)])
    store = Store(file)
    store.arrange({sample.key: sample.index // 2 for sample in samples})
    assert [sample.index for sample in store.samples.values()] == [1, 0, 2, 3]  # a batch stays as it is
    assert list(Store(file).samples.values()) == list(store.samples.values())
    before = file.stat().st_mtime_ns
    store.arrange({sample.key: sample.index // 2 for sample in samples})
    assert file.stat().st_mtime_ns == before


def test_forced_answers_go_on_from_the_stored_thought(tmp_path, model, grader):
    engine, store = TinyEngine(model), Store(tmp_path / "samples.jsonl")
    sample_all(engine, {"sums": sums(3)}, SETTINGS, store, grader)
    forced = [request for batch in engine.asked for request in batch if request.thought]
    assert 0 < len(forced) < 6  # some responses were over before four tokens
    for request in forced:
        assert request.temperature == 0.0
        assert request.thought.endswith("The final answer is \\boxed{")
    for sample in store.samples.values():
        whole = store.samples[(*sample.key[:3], 0)]
        ended = whole.finish != "length"
        if sample.budget and cut(engine.tokenizer, whole.response, 4, ForcingTemplate(), False, ended) is None:
            assert (sample.score, sample.tokens, sample.answer) == (whole.score, whole.tokens, whole.answer)


def test_where_a_thought_is_cut():
    tokenizer, template = byte_tokenizer(), ForcingTemplate()
    suffix = "\n\nThe final answer is \\boxed{"
    assert cut(tokenizer, "12345", 5, template, False) is None
    over = cut(tokenizer, "<think>12345", 99, template, False, ended=False)  # the limit cut it off: no answer of its own
    assert (over.text, over.kept) == ("<think>12345\n</think>" + suffix, 12)
    assert cut(tokenizer, "123456", 5, template, False).text == "12345" + suffix
    assert cut(tokenizer, "<think>123456", 9, template, False).text == "<think>12\n</think>" + suffix
    assert cut(tokenizer, "123456", 5, template, True).text == "12345\n</think>" + suffix  # the prompt opened it
    assert cut(tokenizer, "1</think>123456", 12, template, True).text == "1</think>123" + suffix
    again = "1</think>2<think>3"  # a second thought
    assert cut(tokenizer, again + "456", len(again), template, True).text == again + "\n</think>" + suffix


def test_thinking_and_answer_are_counted_apart(model):
    maker = evaluation.Maker(TinyEngine(model), SETTINGS, None, None)
    for text, tokens in (("<think>12</think>34", 17), ("<think>12", 9), ("34", 0)):
        assert maker._thinking_tokens(Generated(text, len(text), "stop")) == tokens


# ---- what is reported


def test_a_vote_is_the_answer_that_is_graded():
    problem = Problem("0", "?", "5")
    same = (
        "\\boxed{5}",
        "#### 5",
        "The answer is 5 apples.",
        "<think>\\boxed{6}</think>\\boxed{5.0}",
        "<answer>5\\text{ min}</answer>",
    )
    assert {vote(text, problem) for text in same} == {"5"}
    none = ("<think>\\boxed{5}", "\\boxed{5", "no idea", "")
    assert {vote(text, problem) for text in none} == {None}
    assert vote("It is \\boxed{5}", problem, opened=True) is None  # cut off in its thought
    for text in ("\\boxed{1e9999}", "\\boxed{%s}" % ("7" * 3000), "\\boxed{" * 9999, "The answer is " + "1" * 99999):
        vote(text, problem)


def made_up(questions: dict[str, list[tuple[float, int]]], budget: int = 0) -> dict:
    samples = [
        replace(SAMPLE, question=question, index=i, budget=budget, score=score, tokens=tokens, answer=str(score))
        for question, of in questions.items()
        for i, (score, tokens) in enumerate(of)
    ]
    return {sample.key: sample for sample in samples}


def test_the_results_are_those_worked_out_by_hand():
    samples = made_up({"0": [(1, 100), (0, 300)], "1": [(1, 100), (1, 100)]}) | made_up({"0": [(0, 9)], "1": [(1, 9)]}, 8)
    found = results(samples, {"b": sums(2)}, {"b": 3}, Settings(samples=2, budgets=(8,)))["b"]
    assert (found["questions"], found["samples"], found["pass@1"], found["pass@2"]) == (2, 2, 75.0, 100.0)
    assert (found["tokens"], found["median tokens"], found["cut off"]) == (150.0, 100.0, 0.0)
    assert found["accuracy per 1k tokens"] == pytest.approx(500.0)
    assert found["interval"] == [50.0, 100.0]
    assert {level: tier["pass@1"] for level, tier in found["tiers"].items()} == {"easy": 50.0, "hard": 100.0}
    assert found["budgets"]["8"]["pass@1"] == 50.0
    text = table({"b": found}, "some model")
    assert "| some model, pass@1, % | 75.0 (50.0–100.0) | 75.0 |" in text
    assert "| left out: own answer not graded | 3 |" in text
    assert "| 8 | 50.0 | 0.0–100.0 |" in text


def test_what_has_no_grade_is_said(tmp_path):
    samples = made_up({"0": [(1, 100)], "1": [(0, 100)]})
    samples = {key: replace(s, grading="ok" if s.score else "timeout") for key, s in samples.items()}
    text = table(results(samples, {"b": sums(2)}, {}, Settings(samples=1)), "m")
    assert "| no grade, counted as wrong | 1 timeout |" in text


def test_levels_with_fractions_are_tiers_by_their_whole_part():
    levels = [str(1 + i / 4) for i in range(37)]  # as Omni-MATH has them
    problems = [Problem(str(i), "?", "1", level) for i, level in enumerate(levels)]
    samples = made_up({str(i): [(1, 10)] for i in range(37)})
    tiers = results(samples, {"b": problems}, {}, Settings(samples=1))["b"]["tiers"]
    assert list(tiers) == [str(i) for i in range(1, 11)]
    assert tiers["1"]["questions"] == 4


def finished(folder: Path, questions: dict, budgets: tuple[int, ...] = ()) -> Path:
    samples = made_up(questions)
    for budget in budgets:
        samples |= made_up(questions, budget)
    Store(folder / "samples.jsonl").add(list(samples.values()))
    problems = [replace(problem, level="") for problem in sums(len(questions))]
    found = results(samples, {"b": problems}, {}, Settings(samples=1, budgets=budgets))
    (folder / "results.json").write_text(json.dumps({"results": without_nan(found)}, allow_nan=False))
    return folder


def test_runs_are_compared_question_by_question(tmp_path):
    one = finished(tmp_path / "one", {"0": [(1, 100)], "1": [(0, 300)], "2": [(0, 100)]}, (8, 16))
    other = finished(tmp_path / "other", {"0": [(1, 50)], "1": [(1, 150)]}, (8,))
    text = write_comparison([one, other], tmp_path / "out", None)
    assert "| b | one | 3 | 33.3 | – | 167 | 1 |" in text
    assert "| b | other | 2 | 100.0 | +50.0 (+0.0 to +100.0) | 100 | 0.50 (0.50 to 0.50) |" in text
    assert (tmp_path / "out" / "compare.md").read_text() == text
    for plot in ("tokens.png", "budgets.png"):
        assert (tmp_path / "out" / plot).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(FileError, match=r"results\.json is not there"):
        read(tmp_path / "nowhere")
    twin = finished(tmp_path / "elsewhere" / "one", {"0": [(1, 100)]})
    text = write_comparison([one, twin], tmp_path / "out", None)  # one question has no interval
    assert f"| b | {one} | 3 |" in text
    assert f"| b | {twin} | 1 |" in text


def test_runs_that_were_not_sampled_alike_are_said_to_be(tmp_path):
    folders = [finished(tmp_path / name, {"0": [(1, 100)], "1": [(0, 300)]}) for name in ("one", "other")]
    assert "Not sampled alike" not in write_comparison(folders, tmp_path / "out", None)
    for folder, tokens, digest in zip(folders, (4096, 8192), "ab", strict=True):
        written = json.loads((folder / "results.json").read_text())
        settings = {"max_tokens": tokens, "samples": 1, "benchmarks": {"b": {"rows.jsonl": digest, "questions": 2}}}
        (folder / "results.json").write_text(json.dumps(written | {"settings": settings}))
    text = write_comparison(folders, tmp_path / "out", None)
    assert "- max_tokens: 4096 (one), 8192 (other)\n- b: its problems are not the same files" in text


def test_printed_numbers_stand_beside_ours_and_say_so(tmp_path):
    printed = published_of("DeepScaleR-1.5B-Preview")
    assert published_numbers(printed, "aime24")["L2T"] == (48.5, 0.62)
    assert published_numbers(printed, "gsm8k_test") == {}
    run = finished(tmp_path / "one", {"0": [(1, 100)], "1": [(0, 300)]})
    evaluations = [read(run), read(run)]
    for one in evaluations:
        one.found["aime24"] = one.found.pop("b")
        samples = {replace(s, benchmark="aime24").key: replace(s, benchmark="aime24") for s in one.samples.values()}
        one.samples.clear()
        one.samples.update(samples)
    text = comparison(evaluations, printed)
    assert "| aime24 | *printed: L2T* | – | 48.5 | +5.7 to *printed: base* | – | 0.62 of *printed: base* |" in text
    assert "none of them was measured here" in text
    with pytest.raises(ValueError, match=r"Did you mean DeepScaleR-1\.5B-Preview\?"):
        published_of("DeepScaleR-1.5B")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["math5000"], "Did you mean math500?"),
        (["math500", "--instruction", "foo"], "--instruction foo: take one of adaptive, fixed, none, given"),
        (["math500=nowhere.jsonl"], "nowhere.jsonl is not there"),
        ([f"aime25={FIXTURES / 'mbpp.jsonl'}", "--out", "/proc/nowhere"], "l2t_verl.evaluate:"),
        ([f"math500={FIXTURES / 'math500.jsonl'}", "--server", "http://127.0.0.1:9/v1", "--budget", "9"], "--tokenizer"),
        (
            [f"math500={FIXTURES / 'math500.jsonl'}", "--server", "http://127.0.0.1:9/v1", "--data-parallel", "2"],
            "--parallel",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_named(arguments, said):
    done = run("run", "./nowhere", "-b", *arguments)
    assert done.exit_code == 1
    assert said in " ".join(done.output.split())


def test_benchmarks_that_are_empty_or_lack_a_column_or_an_answer(tmp_path):
    for content, said in (
        ("\n", "holds no rows"),
        ('{"task": "1?", "answer": "1"}\n', "no question: none of the columns"),
        ('{"problem": "Prove it.", "answer": ""}\n', "no problem of"),
        ('{"problem": "1?", "answer": "1", "id": 4}\n{"problem": "2?", "answer": "2", "id": 4}\n', "same id '4'"),
    ):
        (tmp_path / "rows.jsonl").write_text(content)
        done = run("run", "./nowhere", "-b", f"math500={tmp_path / 'rows.jsonl'}")
        assert done.exit_code == 1
        assert said in " ".join(done.output.split())


def test_problems_whose_own_answer_is_not_graded_are_left_out_and_counted(tmp_path):
    rows = [{"problem": f"{i}?", "answer": answer} for i, answer in enumerate(("7", "\\frac{1}{2", "\\frac{1}{2}"))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems, left_out, inputs = command.benchmarks_of([f"math500={tmp_path / 'rows.jsonl'}"], None)
    assert ([problem.id for problem in problems["math500"]], left_out) == (["0", "2"], {"math500": 1})
    assert inputs["math500"]["questions"] == 2


# ---- engines, which take their minute to start


def line_for(model: Path, out: Path) -> list[str]:
    benchmark = f"math500={FIXTURES / 'math500.jsonl'}"
    few = ("--samples", "4", "--max-tokens", "40", "--budget", "10", "--batch", "2", "--temperature", "1.0")
    line = [sys.executable, "-m", "l2t_verl.evaluate", "run", str(model), "-b", benchmark, "--out", str(out), *few]
    return [*line, "--instruction", "none", "--max-model-len", "512"]


@pytest.mark.slow
def test_killed_and_resumed_by_two_engines_it_gives_the_same_files(tmp_path, model):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(line_for(model, whole), check=True, timeout=600)
    process = subprocess.Popen(line_for(model, killed), start_new_session=True)
    end = time.monotonic() + 300
    while not (killed / "samples.jsonl").exists() or not (killed / "samples.jsonl").read_bytes().count(b"\n"):
        assert process.poll() is None, "it was over before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = (killed / "samples.jsonl").read_bytes().count(b"\n")
    print(f"killed after {before} samples")
    assert not (killed / "results.json").exists()
    done = subprocess.run([*line_for(model, killed), "--data-parallel", "2"], stdout=subprocess.PIPE, text=True, timeout=600)
    assert done.returncode == 0
    assert "2 engines side by side" in done.stdout
    for file in ("samples.jsonl", "results.md"):
        assert (killed / file).read_text() == (whole / file).read_text()
    results_of = [json.loads((folder / "results.json").read_text()) for folder in (whole, killed)]
    assert results_of[0] == results_of[1]


@pytest.mark.slow
def test_a_server_that_speaks_openai_s_protocol(tmp_path, model):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port)]
    serve += ["--max-model-len", "512", "--dtype", "float32", "--enforce-eager", "--host", "127.0.0.1"]
    variables = os.environ | {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with open(tmp_path / "server.log", "w") as log:
        server = subprocess.Popen(serve, stdout=log, stderr=log, env=variables, start_new_session=True)
    try:
        end = time.monotonic() + 300
        while not answers(port):
            assert server.poll() is None, (tmp_path / "server.log").read_text()[-3000:]
            assert time.monotonic() < end
            time.sleep(1)
        line = [*line_for(model, tmp_path / "out"), "--server", f"http://127.0.0.1:{port}/v1", "--tokenizer", str(model)]
        subprocess.run(line, check=True, timeout=300)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)
    samples = Store(tmp_path / "out" / "samples.jsonl").samples.values()
    assert {sample.budget for sample in samples} == {0, 10}
    assert all(sample.tokens > 0 for sample in samples)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
