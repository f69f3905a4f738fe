"""The README's first command in one step, with the real model, and again from what it has kept."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import forkserver
import pytest
from cluster import QUICKSTART
from stack import of_cpu_stack
from tiny import read_jsonl

COMMAND = "bash recipes/quickstart/run.sh"
ROOT = QUICKSTART.parent.parent


def quickstart(folder: Path, *overrides: str, seconds: float = 1200, **variables: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"STEPS": "1", "KEPT": str(folder), "VENV": sys.prefix} | variables
    command = [*COMMAND.split(), *overrides]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_one_step_shows_what_it_promises(tmp_path):
    as_a_user_s = {forkserver.FOLDER: ""}  # each of Ray's workers a process of its own
    done = quickstart(tmp_path, RUN=str(tmp_path / "run"), **as_a_user_s)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    (row,) = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    metrics = row["data"]
    assert metrics["l2t/fitting_gain/std"] > 0
    assert metrics["l2t/fitting_gain/unstated_mean"] != 0  # also where the answer is not stated
    assert metrics["l2t/compression/max"] < 1e-8  # actor and reference are the same model, by two kernels in float32
    assert metrics["actor/grad_norm"] > 0
    if metrics["critic/score/max"] == metrics["critic/score/min"]:
        assert metrics["l2t/grpo_grad_norm"] == 0.0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["peak_memory_gib"] < 14
    for text in ("[", "step 1 of 1: outcome", "J before", "grad norm GRPO", "episode 1: gain", str(tmp_path / "run")):
        assert text in done.stdout
    assert f"in {tmp_path / 'run' / 'report'}" in done.stdout
    assert "Watch these first" in (tmp_path / "run" / "report" / "report.html").read_text()
    lines = done.stdout.splitlines()
    assert len(lines) < 80, "verl's flood belongs into the log"


@pytest.mark.parametrize(
    ("log", "first", "last"),
    [
        # what verl and Ray print after an error of the trainer
        (
            "(T pid=1) begins\nTraceback (most recent call last):\n  File x\nValueError: too small\n  in two lines\n\nbye\n",
            "Traceback (most recent call last):",
            "  in two lines",
        ),
        # a process died, the trainer was stuck and was ended: what Ray says of that is not the reason
        (
            "\x1b[36m(V pid=2)\x1b[0m ERROR 11-24 23:34:34 [async_llm.py:744] Traceback (most recent call last):\n"
            "\x1b[36m(V pid=2)\x1b[0m ERROR 11-24 23:34:34 [async_llm.py:744] vllm.EngineDeadError: EngineCore is gone.\n"
            "\x1b[36m(T pid=1)\x1b[0m l2t_verl: the run cannot go on: the rollout server at a:1 died\n"
            "Traceback (most recent call last):\nray.exceptions.ActorDiedError: The actor died unexpectedly.\n",
            "(V pid=2) ERROR 11-24 23:34:34 [async_llm.py:744] Traceback (most recent call last):",
            "l2t_verl: the run cannot go on: the rollout server at a:1 died",
        ),
        ("no error\nat all\n", "no error", "at all"),
    ],
)
def test_the_error_is_found_in_the_flood(tmp_path, log, first, last):
    sys.path.insert(0, str(QUICKSTART))
    import report

    (tmp_path / "run.log").write_text(log)
    lines = report.last_error(tmp_path / "run.log").splitlines()
    assert lines[0] == first
    assert lines[-1] == last


@of_cpu_stack
def test_a_model_that_is_not_there_is_named(tmp_path):
    since = time.monotonic()
    done = quickstart(tmp_path, seconds=120, MODEL=str(tmp_path / "no_model"), HF_HUB_OFFLINE="1")
    assert done.returncode != 0
    assert "MODEL=" in done.stderr.splitlines()[-1]
    assert time.monotonic() - since < 60


def test_what_is_kept_is_not_made_again(tmp_path):
    """A second run's preparation: nothing to install, download or convert."""
    sys.path.insert(0, str(QUICKSTART))
    import prepare

    (tmp_path / "models" / "SmolLM2-135M-Instruct").mkdir(parents=True)
    (tmp_path / "models" / "SmolLM2-135M-Instruct" / "config.json").write_text("{}")
    assert prepare.prepare_model(None, tmp_path / "models") == tmp_path / "models" / "SmolLM2-135M-Instruct"
    os.environ["HF_HUB_OFFLINE"] = "1"
    train, test = prepare.prepare_data(tmp_path / "gsm8k")
    first = train.stat().st_mtime_ns
    assert prepare.prepare_data(tmp_path / "gsm8k") == (train, test)
    assert train.stat().st_mtime_ns == first


def test_the_committed_subset_is_gsm8k_s():
    rows = read_jsonl(QUICKSTART / "gsm8k.jsonl")
    assert len(rows) == 384
    assert {row["split"] for row in rows} == {"train", "test"}
    assert len({row["question"] for row in rows}) == len(rows)  # no problem is in both
    assert all("####" in row["answer"] for row in rows)
