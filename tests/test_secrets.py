"""A key goes to the host that was named and to no other, and is written nowhere; pages run nothing that a stranger wrote."""

import json
import shutil
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import typer
from openai import OpenAI  # noqa: F401 - what the engine imports, before the clock runs
from soak.server import Handler, SaysJson, served
from tiny import read_jsonl
from typer.testing import CliRunner

from l2t_verl.evaluate import __main__ as evaluate
from l2t_verl.evaluate.engines import EngineError, Request, ServerEngine, check_address
from l2t_verl.inspector.command import inspect
from l2t_verl.report.command import report

FIXTURES = Path(__file__).parent / "fixtures"
SECRET = "sk-marked-secret-0123456789"
HOSTILE = "</script><img src='http://192.0.2.1/x' onerror='window.hacked=1'><base href='http://192.0.2.1/'>$\\frac{$"
ASKED = Request("1?", "", 0, 9, 1.0, 1.0)


class Leads(BaseHTTPRequestHandler):
    """Sends everybody to another port of the same host."""

    to = ""

    def do_POST(self):
        self.send_response(307)
        self.send_header("location", f"{self.to}/chat/completions")
        self.end_headers()

    def log_message(self, *_):
        pass


class Repeats(SaysJson):
    """Says what it was told, the key too."""

    def do_POST(self):
        self.say({"error": {"message": f"no such key: {self.headers['authorization']}"}}, status=401)


class Hears(Handler):
    heard: list = []  # noqa: RUF012 - of all its instances

    def do_POST(self):
        self.heard.append(self.headers["authorization"])
        super().do_POST()


class Sleeps(BaseHTTPRequestHandler):
    def do_POST(self):
        time.sleep(3)

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)


def run(*arguments: object):
    return CliRunner().invoke(evaluate.app, [str(argument) for argument in arguments])


def test_a_key_follows_no_server_to_another_address():
    Hears.heard.clear()
    with served(Hears) as other, served(Leads) as named:
        Leads.to = other
        engine = ServerEngine(named, "m", tokenizer=None, parallel=1)
        with pytest.raises(EngineError, match=rf"leads on to {other}/chat/completions; name that address by --server"):
            engine.generate([ASKED])
        engine.close()
    assert Hears.heard == []


def test_a_server_that_never_answers_is_not_waited_for_for_ever():
    with served(Sleeps) as address:
        engine = ServerEngine(address, "m", tokenizer=None, parallel=1, seconds=0.2)
        engine.client = engine.client.with_options(max_retries=0)
        since = time.monotonic()
        with pytest.raises(EngineError, match="Timeout"):
            engine.generate([ASKED])
        assert time.monotonic() - since < 2
        engine.close()


def test_no_secret_is_written_or_said(tmp_path, caplog):
    """A whole evaluation by a server; one that repeats the key in its refusal; one whose address holds a password."""
    Hears.heard.clear()
    benchmark = f"math500={FIXTURES / 'math500.jsonl'}"
    with served(Hears) as address, served(Repeats) as rude:
        done = run("run", "m", "-b", benchmark, "--server", address, "--out", tmp_path / "a", "--samples", 1,
                   "--option", f"hf_token={SECRET}")  # fmt: skip
        assert done.exit_code == 0, done.output
        refused = run("run", "m", "-b", benchmark, "--server", rude, "--out", tmp_path / "b", "--samples", 1)
        assert refused.exit_code == 1
        assert "401" in refused.output
        assert "[key]" in refused.output
        in_the_address = run("run", "m", "-b", benchmark, "--out", tmp_path / "c", "--server",
                             address.replace("://", f"://user:{SECRET}@"))  # fmt: skip
        assert in_the_address.exit_code == 1
        assert "OPENAI_API_KEY" in in_the_address.output
    assert set(Hears.heard) == {f"Bearer {SECRET}"}
    said = done.output + refused.output + in_the_address.output + caplog.text
    assert SECRET not in said
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 5
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8000/v1", "file:///etc/passwd", "http://", "http://h/v1?key=x", "http://h/v1#x"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match="--server"):
        check_address(address)


# ---- pages


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> list[Path]:
    """A report and a page of rollouts whose every name and text comes from a stranger."""
    folder = tmp_path_factory.mktemp("pages")
    place = folder / "a<img src onerror>$\\foo$\udcff"
    shutil.copytree(FIXTURES / "trained" / "paper", place)
    with open(place / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 6, "data": {f"l2t/skipped/{HOSTILE}/total": 3.0, "timing_s/step": 1.0}}) + "\n")
    dumped = read_jsonl(place / "rollouts" / "5.jsonl")
    for row in dumped:
        row |= {"input": f"user\n{HOSTILE}\nassistant\n", "gts": HOSTILE}
        row["l2t"] |= {"tail": HOSTILE, "grading": HOSTILE}
        row["l2t"]["episodes"][0]["text"] = HOSTILE
    (place / "rollouts" / "5.jsonl").write_text("".join(json.dumps(row) + "\n" for row in dumped))
    commands = {"report": report, "inspect": inspect}
    lines = {
        "report": [
            f"{HOSTILE.replace('=', '')}={place}",
            f"b={FIXTURES / 'trained' / 'shaped'}",
            "--out",
            folder / "report",
        ],
        "inspect": [place / "rollouts" / "5.jsonl", "--out", folder / "inspect"],
    }
    for name, command in commands.items():
        app = typer.Typer()
        app.command()(command)
        done = CliRunner().invoke(app, [str(word) for word in lines[name]])
        assert done.exit_code == 0, (done.output, done.exception)
    return [folder / "report" / "report.html", folder / "report" / "rollouts-1.html", folder / "inspect" / "inspect.html"]


def test_each_page_forbids_what_a_stranger_could_bring(pages):
    for file in pages:
        text = file.read_text(errors="replace")
        (policy,) = [line for line in text.splitlines() if "Content-Security-Policy" in line]
        for part in ("default-src 'none'", "base-uri 'none'", "form-action 'none'"):
            assert part in policy
        assert text.index("Content-Security-Policy") < text.index("<style")  # before anything that it is for
        assert text.count("<script") == (0 if file.name == "report.html" else 1)
        assert "<img" not in text
        assert "<base" not in text


def test_a_browser_runs_nothing_of_it_and_asks_for_nothing(pages, visit):
    for file in pages:
        tab = visit(file)
        tab.wait_for_timeout(100)
        assert tab.evaluate("window.hacked") is None
        assert tab.evaluate("document.baseURI").startswith("file:")
