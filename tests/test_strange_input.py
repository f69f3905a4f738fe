"""Whatever comes from strangers: what is not in order is refused in words of ours, counted or shown, and nothing hangs."""

import asyncio
import gzip
import io
import json
import math
import tempfile
from functools import cache
from pathlib import Path

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai import OpenAI
from tiny import byte_tokenizer, r1_like_tokenizer

from l2t_verl.config import ConfigError, L2TConfig, load_config
from l2t_verl.data.build import Built, _once, as_row
from l2t_verl.data.datasets import ALL, load
from l2t_verl.data.problems import Problem
from l2t_verl.data.rows import DataError
from l2t_verl.evaluate.__main__ import options_of
from l2t_verl.evaluate.budgets import cut
from l2t_verl.evaluate.engines import EngineError, Generated, Request, ServerEngine
from l2t_verl.evaluate.grade import vote
from l2t_verl.gain import ForcingTemplate
from l2t_verl.grading import Grader, grade_math_score
from l2t_verl.grading.code import program_of
from l2t_verl.grading.pool import Unparsable
from l2t_verl.grading.truth import accepted_answers, rewritten
from l2t_verl.inspector.command import configuration
from l2t_verl.inspector.page import page
from l2t_verl.inspector.records import Record, Skipped, SourceError, read
from l2t_verl.inspector.rollouts import recorded
from l2t_verl.inspector.run import Inspected
from l2t_verl.report import ReportError, read_runs
from l2t_verl.report.page import COLUMNS, cell, counters, stage_times
from l2t_verl.report.panels import PANELS
from l2t_verl.sandbox.tests import functions_of, offered
from l2t_verl.thought import MARKS, Marks, answer_part, find_thought

TOKENIZERS = {"bytes": byte_tokenizer(), "r1": r1_like_tokenizer()}
HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=2>"
PIECES = [
    "<think>", "</think>", "<episode_1>", "</episode_1>", "\\boxed{", "}", "{", "\\frac{1}{2}", "#### ",
    "answer is ", "$", "^", "1", "7", "-", ",", ".", "/", "=", "(", ")", "\\sqrt", "x", "\\pi", "%",
    "\\text{ cm}", "\n\n", "\n", "```python\n", "```\n", "~~~\n", "> ", "def f(x):\n    return x\n",
    "class A: pass\n", "\x00", "\ud800", "\u202e", "🙂", "İ", "\u2028", "\\", "`", "and", "<answer>",
    "</answer>", "**", "A", "\\begin{pmatrix}", "\\end{pmatrix}", "&", "!", "|", "∞", "π",
]  # fmt: skip
SOUP = st.lists(st.sampled_from(PIECES) | st.text(st.characters(), max_size=4), max_size=25).map("".join)
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 1e308, 2**63, True])
SCALARS = st.none() | st.booleans() | NUMBERS | SOUP | st.sampled_from(["", " ", "NaN", "null", HOSTILE, "${x}", "a" * 5000])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def grader():
    pool = Grader(1, 20.0)
    yield pool
    pool.close()


# ---- responses


@given(
    text=SOUP, opened=st.sampled_from([None, True, False]), marks=st.sampled_from([MARKS, Marks("[", "]"), Marks("<", "</")])
)
def test_any_response_is_read(text, opened, marks):
    thought = find_thought(text, marks, opened)
    assert list(thought.closings) == sorted(set(thought.closings))
    answered = answer_part(text, marks, opened)
    assert answered is None or text.endswith(answered)
    try:
        program = program_of(text, {"source": "assert f(1) == 1"}, marks, opened)
        names = functions_of(program)
        assert set(offered(names, "assert abs(f(1)) == 1")) <= set(names)
    except (Unparsable, SyntaxError, ValueError, RecursionError):  # it has no program
        pass
    found = vote(text, Problem("0", "?", "7"), opened, marks)
    assert found is None or found
    assert all(isinstance(truth, str) and truth.strip() for truth in accepted_answers(text))
    assert len(rewritten(text)) <= 1


@given(
    data=st.data(),
    name=st.sampled_from(list(TOKENIZERS)),
    budget=st.integers(1, 40),
    opened=st.booleans(),
    ended=st.booleans(),
)
def test_any_tokens_are_cut_at_a_budget(data, name, budget, opened, ended):
    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=60))
    found = cut(tokenizer, tokenizer.decode(ids), budget, ForcingTemplate(), opened, ended)
    assert found is None or (0 <= found.kept <= budget and found.text)


@given(text=SOUP, truth=SOUP)
def test_any_response_is_graded(grader, text, truth):
    """In a grading process, as in training; an error of the grader's is not a grade."""
    found = asyncio.run(grader.grade(grade_math_score, text, [truth]))
    assert found.status != "error", found
    assert found.score in (0.0, 1.0)


@pytest.mark.parametrize("marks", [("", "</think>"), ("<think>", ""), (" ", "\n")])
def test_a_mark_without_text_would_be_found_for_ever(marks):
    with pytest.raises(ValueError, match="mark"):
        Marks.of(*marks)


# ---- data files

NAMES = st.sampled_from([
    "problem", "question", "prompt", "answer", "solution", "final_answer", "reward_model", "ground_truth",
    "level", "year", "Year", "id", "task_id", "entry_point", "test", "test_list", "code", "text",
    "canonical_solution", "test_setup_code", "response", "output", "score", "episodes", "l2t", "tail",
    "tokens", "answer_score_start", "gts", "step", "input", "benchmark", "budget",
])  # fmt: skip
ROWS = st.lists(st.dictionaries(NAMES | st.text(max_size=5), VALUES, max_size=8) | VALUES, max_size=4)


@st.composite
def written(draw) -> tuple[str, bytes]:
    """A file's ending and content: rows in some form, whole or torn."""
    rows, ending = draw(ROWS), draw(st.sampled_from([".json", ".jsonl", ".csv", ".parquet"]))
    if ending == ".json":
        content = json.dumps(rows).encode("utf-8", "surrogatepass")
    elif ending == ".jsonl":
        content = "".join(json.dumps(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")
    elif ending == ".csv":
        content = "\n".join(",".join(map(str, row)) for row in rows if isinstance(row, dict)).encode("utf-8", "replace")
        content += b"\n" + draw(st.binary(max_size=30))
    else:
        content = parquet(rows)
    if draw(st.integers(0, 4)) == 0:
        content = content[: draw(st.integers(0, len(content)))]
    if draw(st.integers(0, 9)) == 0:
        ending, content = ending + ".gz", gzip.compress(content)[: draw(st.integers(0, 200))]
    return ending, content


def parquet(rows: list) -> bytes:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.Table.from_pylist([row for row in rows if isinstance(row, dict)])
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(table, buffer)
        return buffer.getvalue()
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError):  # no parquet file holds this
        return b"PAR1"


@given(file=written(), name=st.sampled_from(list(ALL)))
@example(file=(".jsonl", b"[" * 100_000 + b"\n"), name="gsm8k")
@example(file=(".json", b'["problem", 7]'), name="gsm8k")
@example(
    file=(".jsonl", b'{"entry_point": 7, "prompt": "def f(x):", "test": "", "canonical_solution": ""}'), name="humaneval"
)
@example(file=(".jsonl.gz", gzip.compress(b"{}")[:12]), name="gsm8k")
def test_any_data_file_is_read_or_refused(file, name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{file[0]}"
        path.write_bytes(file[1])
        try:
            problems = load(name, path)
        except DataError as error:
            assert str(error)
            return
    built = Built([])
    kept = _once(problems, built)
    assert len(kept) + sum(built.dropped.values()) == len(problems)  # none is lost without a word
    for number, problem in enumerate(kept):
        json.dumps(as_row(problem, name, "train", number, "Think.")).encode()


@given(file=written())
@example(file=(".jsonl", b"[" * 100_000 + b"\n"))
@example(file=(".json", b"[" * 100_000))
def test_any_record_is_shown_or_skipped_with_its_reason(file):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{file[0]}"
        path.write_bytes(file[1])
        found = Inspected()
        try:
            items = list(read(path))
        except SourceError as error:
            assert str(error)
            return
    for item in items:
        assert isinstance(item, (Record, Skipped))
        try:
            found.rollouts.append(recorded(item)) if isinstance(item, Record) else found.skipped.append(item)
        except ValueError as error:
            found.skipped.append(Skipped(item.place, str(error)))
    text = page(found, None, names=[HOSTILE], about=[("rewards", HOSTILE)])
    assert text.count("<script") == 1
    assert "<img" not in text


NUMERIC = {"tokens", "answer_score_start", "start", "end", "answer_score", "gain", "penalty", "reward", "outcome"}
KNOWN = {
    "outcome": 1.0,
    "grading": "ok",
    "tokens": 9,
    "answer_score_start": 0.1,
    "tail": "",
    "episodes": [{"text": "a", "start": 0, "end": 4, "answer_score": 0.2, "gain": 0.1, "penalty": 0.0, "reward": 0.1}],
}


@given(name=st.sampled_from([*KNOWN, *KNOWN["episodes"][0]]), value=VALUES)
@example(name="end", value=0)
@example(name="tokens", value=10**400)
def test_recorded_rewards_of_any_form_are_shown_or_refused(name, value):
    known = json.loads(json.dumps(KNOWN))
    (known if name in known else known["episodes"][0])[name] = value
    record = Record("a:1", "1?", None, "a b", ("1",), None, known=known)
    try:
        found = recorded(record)
    except ValueError as error:
        assert str(error)
        return
    numbers = [*found.scores, found.lowest_reward, found.redundancy, found.tokens]
    assert all(math.isfinite(number) for number in numbers)
    assert page(Inspected([found]), None, names=["a"], about=[]).count("<script") == 1


@given(
    steps=st.lists(VALUES | st.integers(0, 9), max_size=4),
    metrics=st.dictionaries(
        st.sampled_from([metric for panel in PANELS for _, metric in panel.metrics] + ["timing_s/step", "timing_s/l2t"])
        | st.text(max_size=9).map("l2t/skipped/{}/total".format),
        VALUES,
        max_size=5,
    ),
    torn=st.binary(max_size=20),
)
@example(steps=[float("inf"), 10**400, 1], metrics={"timing_s/step": 10**400}, torn=b"[" * 100_000 + b"\n")
def test_any_metrics_are_read_or_left_out_with_a_note(steps, metrics, torn):
    lines = [json.dumps({"step": step, "data": metrics}).encode() for step in steps]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "metrics.jsonl"
        file.write_bytes(b"\n".join([*lines, torn]) + b"\n")
        try:
            runs = read_runs([f"{HOSTILE}={folder}"])
        except ReportError as error:
            assert "holds no metrics" in str(error)
            return
    (run,) = runs
    good = {step for step in steps if type(step) is int and 0 <= step <= 2**53}
    assert set(run.steps) >= good
    assert bool(run.notes) or len(good) == len(steps)
    for metric in {name for values in run.steps.values() for name in values}:
        assert all(math.isfinite(value) for value in run.series(metric).values())
    assert all(isinstance(cell(run, *column[1:]), str) for column in COLUMNS)
    stage_times(runs)
    counters(runs)


# ---- configurations


@cache
def places() -> list[tuple[str, ...]]:
    """Every path of the configuration."""
    found, todo = [], [((), L2TConfig)]
    while todo:
        path, model = todo.pop()
        for name, field in model.model_fields.items():
            found.append((*path, name))
            if hasattr(field.annotation, "model_fields"):
                todo.append(((*path, name), field.annotation))
    return found


@given(
    changes=st.lists(
        st.tuples(st.sampled_from(places()) | st.lists(st.text(max_size=6), max_size=3).map(tuple), VALUES), max_size=4
    )
)
@example(changes=[(("gain", "thinks"), "a{99999999999999999999}")])
@example(changes=[(("episodes",), {"markers": ["("]})])
def test_any_value_at_any_path_is_taken_or_refused_with_its_path(changes):
    tree: dict = {}
    for path, value in changes:
        node = tree
        for part in path[:-1]:
            node[part] = node[part] if isinstance(node.get(part), dict) else {}
            node = node[part]
        if path:
            node[path[-1]] = value
    try:
        found = load_config(tree)
    except ConfigError as error:
        assert "algorithm.l2t" in str(error)
        return
    numbers = [value for section in found.model_dump().values() if isinstance(section, dict) for value in section.values()]
    assert all(math.isfinite(value) for value in numbers if isinstance(value, (int, float)))


@given(
    items=st.lists(
        SOUP | st.sampled_from(places()).map(".".join).flatmap(lambda path: SOUP.map(f"{path}=".__add__)), max_size=3
    )
)
@example(items=["a=${"])
@example(items=["beta[=1"])
@example(items=["\ud800=1"])
def test_any_setting_of_a_command_line_is_taken_or_refused(items):
    for reads in (lambda: configuration(items), lambda: options_of(items)):
        try:
            reads()
        except ValueError as error:
            assert str(error)


# ---- a server's replies

REPLY = {
    "id": "1",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "7"}, "text": "7"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
PLACES = [
    ("id",), ("model",), ("choices",), ("usage",), ("choices", 0), ("choices", 0, "message"),
    ("choices", 0, "message", "content"),
    ("choices", 0, "message", "reasoning_content"), ("choices", 0, "text"), ("choices", 0, "finish_reason"),
    ("usage", "completion_tokens"), ("error",),
]  # fmt: skip


@st.composite
def replies(draw) -> httpx.Response:
    reply = json.loads(json.dumps(REPLY))
    for path in draw(st.lists(st.sampled_from(PLACES), max_size=2)):
        node = reply
        try:
            for part in path[:-1]:
                node = node[part]
            node[path[-1]] = draw(VALUES)
        except (TypeError, KeyError, IndexError):  # it has been replaced already
            continue
    content = json.dumps(reply).encode()
    content = content[: draw(st.integers(0, len(content)))] if draw(st.integers(0, 5)) == 0 else content
    status = draw(st.sampled_from([200] * 9 + [204, 301, 307, 400, 401, 404, 429, 500, 503, 599]))
    kind = draw(st.sampled_from(["application/json"] * 4 + ["text/html", "text/event-stream", ""]))
    return httpx.Response(status, content=content, headers={"content-type": kind, "location": "http://elsewhere.invalid/v1"})


@given(reply=replies(), thought=st.sampled_from(["", "<think>1 and"]), knows=st.booleans())
def test_any_reply_is_a_response_or_an_error_of_ours(reply, thought, knows):
    asked = []

    def answer(request):
        asked.append(request.url.host)
        return reply

    engine = ServerEngine("http://named.invalid/v1", "m", tokenizer=TOKENIZERS["r1"], parallel=1)
    engine.client = OpenAI(
        base_url=engine.url,
        api_key="k",
        max_retries=0,
        http_client=httpx.Client(transport=httpx.MockTransport(answer), follow_redirects=False),
    )
    if not knows and not thought:
        engine.tokenizer = None
    try:
        (found,) = engine.generate([Request("1?", thought, 0, 9, 1.0, 1.0)])
    except EngineError as error:
        assert "named.invalid" in str(error)
    else:
        assert isinstance(found, Generated) and isinstance(found.text, str)
        assert type(found.tokens) is int and found.tokens >= 0
        assert found.finish in ("stop", "length")
        found.text.encode()
    finally:
        engine.close()
    assert set(asked) <= {"named.invalid"}
