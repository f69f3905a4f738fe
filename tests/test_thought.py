"""Thoughts end to end: marks of other models, tokenizers that count them among their special tokens, servers."""

import json
import threading
from http.server import HTTPServer
from types import SimpleNamespace

import pytest
from soak.server import SaysJson
from tiny import byte_tokenizer
from typer.testing import CliRunner

from l2t_verl.data import Problem
from l2t_verl.data.instruction import instruction, opens_thinking
from l2t_verl.evaluate import __main__ as command
from l2t_verl.evaluate.budgets import cut
from l2t_verl.evaluate.engines import Request, ServerEngine
from l2t_verl.evaluate.run import Settings, sample_all
from l2t_verl.evaluate.store import Sample, Store
from l2t_verl.gain import ForcingTemplate
from l2t_verl.grading import Grader
from l2t_verl.inspector.records import Record
from l2t_verl.inspector.scoring import Scorer
from l2t_verl.thought import MARKS, Marks, decode, special_marks, without_special

OTHER = Marks("[THINK]", "[/THINK]")
THOUGHT = "{}Try \\boxed{{7}}. No.{}The answer is 3."


def with_special_marks(marks):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([marks.opening, marks.closing], special_tokens=True)
    return tokenizer


@pytest.mark.parametrize("marks", [MARKS, OTHER])
def test_marks_that_are_special_tokens_stay_and_others_go(marks):
    tokenizer, text = with_special_marks(marks), THOUGHT.format(marks.opening, marks.closing)
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids, skip_special_tokens=True) == THOUGHT.format("", "")  # what used to be graded
    assert decode([*ids, tokenizer.eos_token_id], tokenizer, marks) == text
    assert len(special_marks(tokenizer, marks)) == 2
    assert without_special(f"{text}{tokenizer.eos_token}", tokenizer, marks) == text


def test_instructions_and_templates_go_by_the_marks():
    assert "between [THINK] and [/THINK]" in instruction("adaptive", marks=OTHER)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template += "[THINK]\n"
    assert opens_thinking(tokenizer, OTHER)
    assert not opens_thinking(tokenizer)


class Chat(SaysJson):
    """A server as vLLM's: special tokens are left out unless they are asked for; it keeps what it was asked."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        text = THOUGHT.format("", OTHER.closing) + "<|im_end|>"
        if asked.get("skip_special_tokens", True):
            text = text.replace(OTHER.closing, "").replace("<|im_end|>", "")
        message = {"role": "assistant", "content": text} | self.server.message
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        self.say(body | {"usage": {"prompt_tokens": 1, "completion_tokens": 9, "total_tokens": 10}})


@pytest.fixture
def server():
    with HTTPServer(("127.0.0.1", 0), Chat) as found:
        found.asked, found.message = [], {}
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def graded(server, tmp_path, tokenizer, marks):
    url = f"http://127.0.0.1:{server.server_port}/v1"
    engine = command.server_of(url, "m", None, 1, marks)
    engine = ServerEngine(url, "m", tokenizer=tokenizer, parallel=1, marks=marks) if tokenizer else engine
    store, grader = Store(tmp_path / "samples.jsonl"), Grader(1)
    settings = Settings(samples=1, think_open=marks.opening, think_close=marks.closing)
    problems = {"sums": [Problem(truth, "?", truth) for truth in ("3", "7")]}
    try:
        sample_all(engine, problems, settings, store, grader)
    finally:
        grader.close()
        engine.close()
    return {sample.question: (sample.score, sample.grading, sample.answer) for sample in store.samples.values()}


def test_a_server_is_asked_for_marks_that_are_special_tokens(server, tmp_path):
    tokenizer = with_special_marks(OTHER)
    tokenizer.chat_template += OTHER.opening
    found = graded(server, tmp_path, tokenizer, OTHER)
    assert {question: entry[0] for question, entry in found.items()} == {"3": 1.0, "7": 0.0}
    assert all(asked["skip_special_tokens"] is False for asked in server.asked)


def test_other_servers_are_not_asked_what_they_may_not_know(server):
    url = f"http://127.0.0.1:{server.server_port}/v1"
    ServerEngine(url, "m", tokenizer=byte_tokenizer(), parallel=1).generate([Request("?", "", 0, 9, 0.0, 1.0)])
    assert "skip_special_tokens" not in server.asked[0]


@pytest.mark.parametrize("content", [None, ""])
def test_a_servers_thought_without_content_answers_nothing(server, tmp_path, content):
    server.message = {"content": content, "reasoning_content": "It is \\boxed{3}."}
    assert graded(server, tmp_path, None, OTHER) == {"3": (0.0, "unparsable", None), "7": (0.0, "unparsable", None)}


def test_the_command_takes_marks():
    text = CliRunner().invoke(command.app, ["run", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    assert "--think-open" in text
    assert "--think-close" in text


def test_the_inspector_grades_recorded_tokens_with_their_marks():
    tokenizer = with_special_marks(MARKS)
    ids = tokenizer.encode(THOUGHT.format(MARKS.opening, MARKS.closing), add_special_tokens=False)
    dumped = tokenizer.decode(ids, skip_special_tokens=True)
    record = Record("", "?", None, dumped, ("3",), None, known={"response_ids": ids})
    scorer = SimpleNamespace(tokenizer=tokenizer, template=SimpleNamespace(marks=MARKS))
    assert Scorer.text(scorer, record) == THOUGHT.format(MARKS.opening, MARKS.closing)


def test_an_answer_is_forced_after_a_stored_sample_with_half_a_character(tmp_path):
    file = tmp_path / "samples.jsonl"
    Store(file).add([Sample("b", "1", 0, 0, "a\ud83d \\boxed{2}", "stop", 5, 0, 1.0, "ok", "2")])
    (sample,) = Store(file).samples.values()
    assert cut(byte_tokenizer(), sample.response, 4, ForcingTemplate(), False).text.startswith("a\ufffd")
