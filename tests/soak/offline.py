"""The offline tools, killed or out of room at random moments and started again: their files are those of a run that was not.

A tool meets some faults, one after the other, before it is let go on to its end. A kill (`kill -9` of its whole group) comes
after a random share of the time that the tool takes, or at a random change of its folder; a full disk is a limit on the size
of files.
"""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from soak.record import Record
from soak.server import served

TESTS = Path(__file__).parents[1].resolve()

FIXTURES = TESTS / "fixtures"
VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VERL_PLATFORM": "cpu",
    "L2T_REVISION": "the soak's",  # it stands in the files of controlled runs
    "PYTHONPATH": str(TESTS.parent),
}
CONTROLLED = """
import sys
from pathlib import Path
from recipes.controlled.run import run
from recipes.controlled.settings import Settings
for seed in range(3):
    settings = Settings("grpo", seed=seed, start=1, steps=1, prompts=1, group=2, limit=30, test=3)
    run(settings, Path("recipes/controlled/starts/1"), Path(sys.argv[1]))
"""
LONGEST = 300.0  # seconds that a tool may take
AT_ONCE = 5  # faults before a tool is let alone
WRONG = "it did not say so"


@dataclass(frozen=True)
class Tool:
    """A tool: the command that writes to a folder, which stands behind it as its last word."""

    name: str
    line: tuple[str, ...]


def tools(work: Path, server: str) -> list[Tool]:
    model, python = str(work / "model"), sys.executable
    data = ("-m", "l2t_verl.data", "aime_919", "--from", str(FIXTURES / "aime.csv"))
    data += ("--against", f"math500={FIXTURES / 'math500.jsonl'}", "--against", f"aime25={FIXTURES / 'aime25.jsonl'}")
    evaluate = ("-m", "l2t_verl.evaluate", "run", "a-model", "-b", f"math500={FIXTURES / 'math500.jsonl'}")
    evaluate += ("--server", server, "--tokenizer", model, "--samples", "4", "--max-tokens", "40", "--batch", "2")
    evaluate += ("--budget", "6")
    inspect = ("-m", "l2t_verl", "inspect", str(FIXTURES / "rollouts.jsonl"), "--model", model, "--segmenter", "paragraphs")
    report = ("-m", "l2t_verl", "report", *(str(FIXTURES / "trained" / arm) for arm in ("shaped", "paper")))
    return [
        Tool("data", (python, *data, "--out")),
        Tool("evaluate", (python, *evaluate, "--out")),
        Tool("inspect", (python, *inspect, "--out")),
        Tool("controlled", (python, "-c", CONTROLLED)),
        Tool("report", (python, *report, "--out")),
    ]


def begun(tool: Tool, out: Path, most_bytes: int | None = None) -> subprocess.Popen:
    """Start a tool; where a file of its grows beyond the limit, its disk is full, and what it says comes by a pipe."""

    def limited() -> None:
        if most_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    with open(out.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            [*tool.line, str(out)],
            cwd=TESTS.parent,
            env=os.environ | VARIABLES,
            stdout=log if most_bytes is None else subprocess.PIPE,  # the log is a file, too
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=limited,
        )


def finished(tool: Tool, out: Path, most_bytes: int | None = None) -> tuple[int, str]:
    """Let a tool come to its end: its status, and what it said where it did not say it to the log."""
    process = begun(tool, out, most_bytes)
    try:
        said, _ = process.communicate(timeout=LONGEST)
        return process.returncode, said or ""
    except subprocess.TimeoutExpired:
        kill(process)
        return 124, ""


def kill(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def files(out: Path) -> dict[str, bytes | dict]:
    """Everything in a folder that is there for good; of a controlled run without its times."""
    found: dict[str, bytes | dict] = {}
    for path in sorted(out.rglob("*")):
        if path.is_file() and ".partial" not in path.name:
            content: bytes | dict = path.read_bytes()
            if isinstance(content, bytes) and path.suffix == ".json" and b'"made by"' in content:
                content = json.loads(content)
                content.pop("seconds")
                content["curve"] = [{k: v for k, v in row.items() if "second" not in k} for row in content["curve"]]
            found[str(path.relative_to(out))] = content
    return found


def state(out: Path) -> list[tuple[str, int]]:
    """What changes when a tool writes."""
    found = []
    for path in sorted(out.rglob("*")) if out.exists() else []:
        try:
            found.append((str(path), path.stat().st_size))
        except FileNotFoundError:
            continue
    return found


def killed(tool: Tool, out: Path, draw: random.Random, seconds: float, changes: int) -> tuple[str, str]:
    """Start a tool and kill it; which fault that was, and when."""
    process, since = begun(tool, out), time.monotonic()
    if draw.random() < 0.4:
        moment = draw.uniform(0.05, 1.0) * seconds
        text = f"after {moment:.2f} s of {seconds:.2f}"
        while time.monotonic() - since < moment and process.poll() is None:
            time.sleep(0.005)
    else:
        wanted, delay, seen, last = draw.randint(1, max(1, changes)), draw.choice((0.0, 0.0, 0.01, 0.1)), 0, state(out)
        text = f"{delay:.2f} s after change {wanted} of its folder"
        while process.poll() is None and seen < wanted and time.monotonic() - since < LONGEST:
            if (now := state(out)) != last:
                last, seen = now, seen + 1
        time.sleep(delay)
    over = process.poll() is not None
    kill(process)
    return "kill -9", text + (" (it was over)" if over else "")


def full_disk(tool: Tool, out: Path, draw: random.Random, largest: int) -> tuple[str, str]:
    """Run a tool whose files may not grow beyond a random size; it has to say so and end."""
    most = draw.randint(0, max(1, largest - 1))
    status, said = finished(tool, out, most)
    problem = "" if status and "Traceback" not in said else f", {WRONG}: status {status}, its last words {said[-300:]!r}"
    return "no room" + problem, f"for a file of more than {most} bytes"


def trials(
    tool: Tool, out: Path, seeds: Sequence[int], whole: dict, seconds: float, changes: int
) -> tuple[list[tuple[str, str]], str]:
    """A fault for each seed, one after the other, then a start that is let alone: the faults, and what became of it.

    Args:
        tool: that is started again and again.
        out: its folder.
        seeds: of the faults.
        whole: the files of a run that had none.
        seconds: that such a run takes.
        changes: of its folder that such a run makes.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.with_suffix(".log").unlink(missing_ok=True)
    faults = []
    for seed in seeds:
        draw = random.Random(seed)
        if tool.name != "controlled" and draw.random() < 0.2:
            largest = max(len(content) for content in whole.values() if isinstance(content, bytes))
            faults.append(full_disk(tool, out, draw, largest))
        else:
            faults.append(killed(tool, out, draw, seconds, max(1, changes // AT_ONCE)))
    status, _ = finished(tool, out)
    again = files(out)
    differing = sorted(name for name in {*again, *whole} if again.get(name) != whole.get(name))
    if status or differing or any(WRONG in fault for fault, _ in faults):
        return faults, f"DIFFERS: status {status}, files {differing}; see {out}"
    shutil.rmtree(out)
    return faults, "equal"


def counted(tool: Tool, out: Path) -> tuple[float, int]:
    """Run a tool to its end: its seconds, and how often its folder changed."""
    process, since, last, changes = begun(tool, out), time.monotonic(), state(out), 0
    while process.poll() is None and time.monotonic() - since < LONGEST:
        if (now := state(out)) != last:
            last, changes = now, changes + 1
        time.sleep(0.001)
    if process.wait():
        sys.exit(f"{tool.name} does not run at all: {out.with_suffix('.log').read_text()[-2000:]}")
    return time.monotonic() - since, changes


def soak(work: Path, record: Record, kills: int, seed: int) -> None:
    """Kill the tools in turn, `AT_ONCE` times each, as often as the record has not yet.

    Args:
        work: folder for what is written.
        record: of the trials.
        kills: faults, counted from the seed.
        seed: of the first one.
    """
    known: dict[str, tuple[float, int, dict]] = {}
    with served() as server:
        chosen = tools(work, server)
        for first in range(seed, seed + kills, AT_ONCE):
            tool = chosen[first // AT_ONCE % len(chosen)]
            seeds = range(first, min(first + AT_ONCE, seed + kills))
            if all(record.has(tool.name, number) for number in seeds):
                continue
            if tool.name not in known:
                out = work / f"{tool.name}-whole"
                shutil.rmtree(out, ignore_errors=True)
                known[tool.name] = (*counted(tool, out), files(out))
            seconds, changes, whole = known[tool.name]
            faults, outcome = trials(tool, work / f"{tool.name}-{first}", seeds, whole, seconds, changes)
            for number, (fault, moment) in zip(seeds, faults, strict=True):
                record.add(tool.name, number, fault, moment, outcome)
