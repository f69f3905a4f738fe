"""`python -m l2t_verl.data`: from files in published form to what verl trains on."""

import errno
import json
import os
import random
import time
from pathlib import Path

import pyarrow.parquet
import pytest
from tiny import byte_tokenizer, metaspace_tokenizer
from typer.testing import CliRunner

from l2t_verl import data, episodes
from l2t_verl.data import __main__ as command
from l2t_verl.data.build import as_row, build, checked
from l2t_verl.data.duplicates import THRESHOLD, NearDuplicates, shingles
from l2t_verl.data.instruction import instruction, opens_thinking
from l2t_verl.data.problems import Problem
from l2t_verl.data.rows import DataError, file_rows
from l2t_verl.grading import grade_code_score

FIXTURES = Path(__file__).parent / "fixtures"
AGAINST = ["--against", f"math500={FIXTURES / 'math500.jsonl'}", "--against", f"aime25={FIXTURES / 'aime25.jsonl'}"]


def run(*arguments: object) -> object:
    return CliRunner().invoke(command.app, [str(argument) for argument in arguments])


def test_a_training_set_is_built_and_what_is_dropped_is_counted(tmp_path):
    done = run("aime_919", "--from", FIXTURES / "aime.csv", *AGAINST, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    rows = pyarrow.parquet.read_table(tmp_path / "train.parquet").to_pylist()
    assert [row["extra_info"]["id"] for row in rows] == ["1983-1", "1990-4"]  # 2024 is out, a copy, a problem of math500
    assert rows[0]["data_source"] == "l2t/aime_919"
    assert rows[0]["reward_model"] == {"style": "rule", "ground_truth": "2"}
    assert rows[0]["prompt"][0]["content"].startswith(
        "Find the remainder when $2^{100}$ is divided by $7$.\n\nThink between"
    )
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["read"], manifest["kept"]) == (4, 2)
    assert manifest["dropped"] == {"seen before": 1, "in math500": 1}
    assert "Jaccard" in manifest["first dropped"]["in math500"]
    assert set(manifest["outputs"]) == {"train.parquet", "validation.parquet"}
    assert manifest["inputs"]["aime_919"].keys() == {"aime.csv"}
    for text in ("4 problems read, 2 kept", "1 dropped: seen before", "1 dropped: in math500", "919"):
        assert text in done.output
    validation = pyarrow.parquet.read_table(tmp_path / "validation.parquet").to_pylist()
    assert [row["data_source"] for row in validation] == ["l2t/aime25"]


def test_a_sample_is_drawn_by_its_seed_among_what_can_be_graded(tmp_path):
    kept = {}
    for seed in (0, 0, 1, 2, 3):
        done = run("numina_math_4k", "--from", FIXTURES / "numina.jsonl", "--against", "none", "--out", tmp_path,
                   "--sample", 2, "--seed", seed)  # fmt: skip
        assert done.exit_code == 0, done.output
        rows = pyarrow.parquet.read_table(tmp_path / "train.parquet").to_pylist()
        answers = [row["reward_model"]["ground_truth"] for row in rows]
        assert len(answers) == 2
        assert set(answers) < {"3", "\\frac{1}{6}", "12"}  # never the proof, never the box that is not closed
        assert kept.setdefault(seed, answers) == answers
        assert not (tmp_path / "validation.parquet").exists()
    assert len({tuple(sorted(answers)) for answers in kept.values()}) > 1
    assert json.loads((tmp_path / "manifest.json").read_text())["dropped"]["no answer"] == 2


def test_verl_reads_the_rows(tmp_path):
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    assert run("aime_919", "--from", FIXTURES / "aime.csv", *AGAINST, "--out", tmp_path).exit_code == 0
    config = OmegaConf.create(
        {"max_prompt_length": 2048, "cache_dir": str(tmp_path / "cache"), "filter_overlong_prompts": True}
    )
    dataset = RLHFDataset(str(tmp_path / "train.parquet"), byte_tokenizer(), config)
    assert len(dataset) == 2
    assert dataset[1]["reward_model"]["ground_truth"] == "30"


def test_what_the_prompt_asks_for_is_what_the_segmenter_cuts():
    text = instruction("adaptive")
    for tag in ("<think>", "</think>", "<episode_1>", "</episode_1>", "\\boxed{}"):
        assert tag in text
    answered = "<think><episode_1>2+2=4</episode_1><episode_2>4+1=5</episode_2></think>\\boxed{5}"
    assert episodes.format_ok(answered)
    assert "at most 7 of them" in instruction("fixed", episodes=7)
    assert "<episode" not in instruction("none")


def test_a_template_that_opens_the_thought_is_not_asked_to_open_another():
    opening = byte_tokenizer()
    assert not opens_thinking(opening)
    opening.chat_template = opening.chat_template.replace("assistant\n", "assistant\n<think>\n")
    assert opens_thinking(opening)
    assert "<think>" not in instruction("adaptive", opened=True)
    assert episodes.format_ok("<episode_1>2+2=4</episode_1></think>4")  # what follows the prompt's own <think>
    with pytest.raises(ValueError, match="chat template"):
        opens_thinking(metaspace_tokenizer())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.jsonl", '{"problem": "1?", "answer": "1"}\n{"problem": \n', "line 2"),
        ("rows.jsonl", '{"task": "1?", "answer": "1"}\n', "no question: none of the columns problem, question"),
        ("rows.jsonl", '{"problem": "1?", "reply": "1"}\n', "there are problem, reply"),
        ("rows.jsonl", "\n", "holds no rows"),
        ("rows.parquet", "not parquet", "rows.parquet cannot be read"),
        ("rows.txt", "1", "no file of a kind that is read"),
        ("rows.json", '[{"problem": "Prove it.", "answer": ""}]', "no problem of gsm8k is left"),
    ],
)
def test_data_that_cannot_be_used_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    done = run("gsm8k", "--from", tmp_path / name, "--against", "none", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert said in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["aime919"], "Did you mean aime_919?"),
        (["math500"], "Known: aime_919"),
        (["gsm8k", "--against", "math5000"], "Did you mean math500?"),
        (["gsm8k", "--instruction", "both"], "adaptive, fixed, none, given"),
        (["gsm8k", "--from", "nowhere.jsonl", "--against", "none"], "nowhere.jsonl is not there"),
    ],
)
def test_a_name_that_is_not_known_is_named(arguments, said):
    done = run(*arguments)
    assert done.exit_code == 1
    assert said in " ".join(done.output.split())


def test_a_data_set_in_the_form_of_another_is_refused(tmp_path):
    for name, file, said in (
        ("mbpp", "aime.csv", "is not in the form of mbpp (google-research-datasets/mbpp): no task_id"),
        ("gsm8k", "mbpp.jsonl", "no question: none of the columns"),
        ("aime_919", "numina.jsonl", "no Year: none of the columns Year, year"),
    ):
        done = run(name, "--from", FIXTURES / file, "--against", "none", "--out", tmp_path / "out")
        assert done.exit_code == 1
        assert said in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


def test_questions_of_any_script_are_told_apart():
    texts = ("求和", "求积", "Сколько яблок?", "Сколько груш?", "???", "!!!")
    problems = [Problem(str(i), text, "1") for i, text in enumerate((*texts, "求 和!"))]
    built = build(problems, {}, report=lambda _: None)
    assert [problem.question for problem in built.kept] == list(texts)
    assert built.dropped == {"seen before": 1}


def test_without_a_network_the_remedy_is_said(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"(?s)math-ai/aime25.*name the file or folder"):
        data.load("aime25")


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    arguments = ["aime_919", "--from", FIXTURES / "aime.csv", *AGAINST, "--out", tmp_path]
    assert run(*arguments).exit_code == 0
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    done = run(*arguments)
    assert done.exit_code == 1
    assert "No space left on device" in done.output
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_files_are_read_in_every_published_form(tmp_path):
    rows = [{"problem": f"{i}?", "answer": str(i)} for i in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.json").write_text(json.dumps(rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    (tmp_path / "README.md").write_text("not data")
    assert file_rows(tmp_path) == rows * 3
    assert [problem.answer for problem in data.load("math500", tmp_path / "b.json")] == ["0", "1", "2"]


def test_a_near_duplicate_index_is_exact():
    seed = 3
    print("seed", seed)
    draw = random.Random(seed)
    words = [f"w{chr(97 + i)}" for i in range(12)]
    texts = [" ".join(draw.choice(words) for _ in range(draw.randint(3, 30))) for _ in range(60)]
    index = NearDuplicates(texts)
    for text in [*texts, *(" ".join(draw.choice(words) for _ in range(20)) for _ in range(20))]:
        own = shingles(text)
        best = max(len(own & shingles(other)) / len(own | shingles(other)) for other in texts)
        found = index.nearest(text)
        assert (found[1] if found else 0.0) == pytest.approx(best)
    assert index.nearest(texts[5])[1] == 1.0 >= THRESHOLD


def test_an_answer_that_no_grader_reads_is_dropped():
    problems = [Problem("0", "How much?", "\\frac{1}{2"), Problem("1", "How many?", "1,000")]
    built = build(problems, {}, report=lambda _: None)
    assert [problem.id for problem in built.kept] == ["1"]
    assert built.dropped == {"answer that cannot be graded": 1}
    assert as_row(built.kept[0], "x", "train", 0, "Go.")["prompt"][0]["content"].endswith("\n\nGo.")


def test_programs_are_kept_if_they_pass_their_own_tests(tmp_path):
    against = ("--against", f"humaneval={FIXTURES / 'humaneval.jsonl'}")
    done = run("mbpp", "--from", FIXTURES / "mbpp.jsonl", *against, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    rows = pyarrow.parquet.read_table(tmp_path / "train.parquet").to_pylist()
    assert [row["extra_info"]["id"] for row in rows] == ["601", "974"]  # 602 fails its test, 11 is of the test split
    first = rows[0]["prompt"][0]["content"]
    assert "It should pass this test:\nassert double(2) == 4" in first
    assert "double(-1)" not in first  # the other tests are held back
    assert "```python block" in first
    assert rows[0]["reward_model"]["ground_truth"] == "def double(x):\n  return 2 * x"
    assert rows[1]["extra_info"]["tests"]["source"].startswith("from math import isclose\nassert")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["dropped"] == {"answer that cannot be graded": 1}
    (shown,) = pyarrow.parquet.read_table(tmp_path / "validation.parquet").to_pylist()
    assert shown["data_source"] == "l2t/humaneval"
    answer = "<think>...</think>\n```python\ndef unshift(text: str) -> str:\n    return text[-1:] + text[:-1]\n```"
    assert grade_code_score(answer, shown["extra_info"]["tests"]) == 1.0  # `shift` stands before the program


def test_mathematics_is_compared_with_benchmarks_of_mathematics_alone():
    assert set(command.benchmark_sources(None, "code")) == {"humaneval", "mbpp_test"}
    assert "humaneval" not in command.benchmark_sources(None, "math")


def rows_file(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_wrong_answer_whose_grading_does_not_end_is_no_fault_of_the_row(monkeypatch, capfd):
    """The pool ends quietly, too: the process after a hung one is still starting then."""
    monkeypatch.setattr(f"{checked.__module__}.SECONDS", 2.0)
    monkeypatch.setattr(f"{checked.__module__}.self_check", right)
    monkeypatch.setattr(f"{checked.__module__}.won_by_wrong", hang)
    assert checked([Problem("0", "?", "1")]) == [(Problem("0", "?", "1"), None)]
    monkeypatch.setattr(f"{checked.__module__}.self_check", hang)
    ((_, fault),) = checked([Problem("0", "?", "1")])
    assert fault[1].endswith("(TimeoutError)")
    assert capfd.readouterr().err == ""


def right(problem):
    return None


def hang(problem):
    time.sleep(60)


def test_rows_that_cannot_be_won_or_by_a_wrong_answer_are_named(tmp_path):
    truths = ("\\[ 98 \\]", "\\frac{1}{2", "", "\\dfrac23 \\approx 0.67", "15\\mbox{ cm}^2", "\\binom{5}{2}")
    file = rows_file(tmp_path / "a.jsonl", *({"problem": f"{i}?", "answer": truth} for i, truth in enumerate(truths)))
    done = run("check", file)
    assert done.exit_code == 1, done.output
    lines = done.output.splitlines()
    assert [line[: line.index(":")] for line in lines if line.startswith("row ")] == [
        "row 1 (id 1) cannot be won",
        "row 2 (id 2) cannot be won",
        "row 3 (id 3) can be won by a wrong answer",
    ]
    assert "it has no answer" in done.output
    assert "'\\\\dfrac23 \\\\approx 0.66' and" in done.output
    assert "1 truths are taken out of what stands around them" in done.output
    assert f"{file}: 6 rows, 3 of them at fault" in done.output


def test_the_status_of_a_check_says_what_was_found(tmp_path):
    good = rows_file(tmp_path / "good.jsonl", {"problem": "1?", "answer": "1"})
    (tmp_path / "bad.jsonl").write_text("{")
    assert run("check", good).exit_code == 0
    for file, said in ((tmp_path / "bad.jsonl", "line 1"), (tmp_path / "no.jsonl", "is not there")):
        done = run("check", file)
        assert done.exit_code == 2
        assert said in " ".join(done.output.split())
    other = rows_file(tmp_path / "other.jsonl", {"task": "1?"})
    assert run("check", other).exit_code == run("check").exit_code == 2
    assert run("check", FIXTURES / "mbpp.jsonl").exit_code == 1  # programs, of which one fails its own tests


def test_truths_are_taken_out_of_what_stands_around_them_and_counted(tmp_path):
    truths = ["98", *(f"\\[ {n} \\]" for n in range(10, 22)), "So 3 + 4 = 7, and\n#### 7", "\\boxed{5}."]
    words = ("one", "two", "red", "blue", "cat", "dog", "sun", "moon", "sea", "hill", "bird", "tree", "car", "box", "cup")
    file = rows_file(tmp_path / "a.jsonl", *({"problem": w, "answer": t} for w, t in zip(words, truths, strict=True)))
    done = run("gsm8k", "--from", file, "--against", "none", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    built = pyarrow.parquet.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert [row["reward_model"]["ground_truth"] for row in built] == ["98", *map(str, range(10, 22)), "7", "5"]
    assert "14 truths are taken out of what stands around them" in done.output
    assert done.output.count(" is read as ") == 10
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["truths taken out of what stands around them"] == 14
