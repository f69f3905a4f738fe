"""The check of a GPU machine, on a CPU: how a section's end is recorded, what figures mean, and all of it once."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stack import of_cpu_stack
from tiny import write_model

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
import check
import sections

ROOT = Path(__file__).parent.parent


@of_cpu_stack
def test_a_section_that_fails_is_recorded_with_its_last_lines(tmp_path, monkeypatch):
    """The quickstart says why, and the section with it."""
    monkeypatch.setenv("MODEL", str(tmp_path / "nowhere"))
    monkeypatch.setenv("KEPT", str(tmp_path / "kept"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = check.run_section("quickstart-float32", "cpu", tmp_path, seconds=120)
    assert found["status"] == sections.FAILS
    (line,) = found["lines"]
    assert line["said"].startswith("ended with exit status 1; ")
    assert "MODEL=folder names a model that is here" in line["said"]


def test_a_section_that_does_not_end_is_ended(tmp_path):
    found = check.run_section("ratios", "cpu", tmp_path, seconds=0.5)
    assert found["status"] == sections.FAILS
    assert "was ended after 0 s" in found["lines"][-1]["said"]
    assert found["seconds"] < 45


def test_what_a_section_found_before_it_died_is_kept(tmp_path):
    findings = sections.Findings(tmp_path / "a.json")
    findings.figures["plain"] = {"dtype": "torch.float32"}
    findings.say(sections.WORKS, "plain")
    assert json.loads(findings.file.read_text()) == {
        "lines": [{"status": "works", "said": "plain"}],
        "figures": {"plain": {"dtype": "torch.float32"}},
    }


@pytest.mark.parametrize(
    ("ways", "cpu", "largest", "exact", "status"),
    [
        (1e-6, 1e-6, 1e-6, True, sections.WORKS),
        (1e-6, 1e-2, 1e-6, True, sections.DIFFERS),
        (1e-2, 1e-6, 1e-6, True, sections.FAILS),
        (1e-6, 1e-6, 1e-2, True, sections.FAILS),
        (1e-6, 1e-6, 1e-2, False, sections.WORKS),  # in half precision, what the fused forward does is measured only
        (math.nan, 1e-6, 1e-6, True, sections.FAILS),
        (1e-6, math.nan, 1e-6, True, sections.DIFFERS),
    ],
)
def test_figures_are_judged(tmp_path, ways, cpu, largest, exact, status):
    figures = {
        "packed against expanded (nats)": ways,
        "against the CPU (nats)": cpu,
        "fused against verl's old log-probs, largest (nats)": largest,
        "fused against verl's old log-probs, RMS (nats)": largest / 2,
        "share of tokens whose ratio leaves the clip": 0.0,
    }
    findings = sections.Findings(tmp_path / "a.json")
    sections.judge(findings, "plain", figures, 1e-3, exact)
    assert [line["status"] for line in findings.lines] == [status]


@pytest.mark.slow
@pytest.mark.cluster
@of_cpu_stack
def test_every_section_is_tried_as_far_as_it_goes(tmp_path):
    """One cluster, for the quickstart's two steps with a model of random weights."""
    variables = {"OUT": str(tmp_path / "out"), "KEPT": str(tmp_path / "kept"), "VENV": sys.prefix}
    variables |= {"MODEL": str(write_model(tmp_path / "model"))}
    line = ["bash", "tests/gpu/run.sh", "--cpu"]
    done = subprocess.run(
        line, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=800, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["works"]
    found = {section["section"]: section for section in result["sections"]}
    assert {name: section["status"] for name, section in found.items()} == {
        "environment": sections.NEEDS_GPU,  # the card
        "quickstart-float32": sections.WORKS,
        "quickstart-bfloat16": sections.NEEDS_GPU,
        "scores-sdpa": sections.WORKS,
        "scores-flash-attention": sections.NEEDS_GPU,
        "ratios": sections.WORKS,
    }
    assert len(found["quickstart-float32"]["figures"]["steps"]) == 2
    for variant in sections.VARIANTS:
        assert found["scores-sdpa"]["figures"][variant]["packed against expanded (nats)"] < 1e-5
    page = (tmp_path / "out" / "page.md").read_text()
    assert page == check.page(result)
    assert "- **works**: quickstart-float32, scores-sdpa, ratios" in page
    assert page in done.stdout
