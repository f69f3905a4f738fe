"""`l2t-verl report` on five steps of real runs (recipes/controlled, main_ppo), and on what is left of runs that broke."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from l2t_verl.report import ReportError, read_runs
from l2t_verl.report.charts import over_seeds
from l2t_verl.report.command import report
from l2t_verl.report.page import counters, stage_times
from l2t_verl.report.panels import PANELS
from l2t_verl.report.runs import Run

RUNS = Path(__file__).parent / "fixtures" / "trained"
app = typer.Typer()
app.command()(report)


def made(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class Page(HTMLParser):
    """What a page holds: its text, and everything that it would fetch."""

    def __init__(self, text: str):
        super().__init__()
        self.texts, self.links, self.images = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        held = dict(attributes)
        self.images += tag == "svg"
        self.links += [value for name, value in held.items() if name in ("src", "href", "xlink:href", "data", "srcset")]

    def handle_data(self, data):
        self.texts.append(data)


def test_no_model_s_library_is_waited_for():
    code = "import sys, l2t_verl.report.command; print(sorted({'torch', 'transformers', 'verl', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_page_of_two_arms(tmp_path):
    done = made(f"{RUNS / 'paper'}", f"ours={RUNS / 'shaped'}", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    page = Page((tmp_path / "report.html").read_text())
    text = " ".join(" ".join(page.texts).split())
    for panel in PANELS:
        assert panel.title in text
    assert page.images == len(PANELS) + 1  # and where the time goes
    for said in ("ours", "L2T's own stage takes", "0.609 → ", "Watch these first"):
        assert said in text
    outside = [link for link in page.links if not link.startswith(("#", "rollouts-"))]
    assert outside == []  # it asks for nothing
    assert (tmp_path / "report.html").stat().st_size < 1_000_000
    shown = (tmp_path / "rollouts-1.html").read_text()
    assert "&lt;episode_1&gt;" in shown
    assert shown.count("<article") == 6  # three rollouts of the first and the last step that were dumped


def test_a_browser_shows_it_and_it_leads_to_the_rollouts(visit, tmp_path):
    assert made(RUNS / "paper", f"ours={RUNS / 'shaped'}", "--out", tmp_path).exit_code == 0
    visit(tmp_path / "rollouts-1.html")  # the link below leads there
    tab = visit(tmp_path / "report.html", viewport={"width": 1200, "height": 900})
    assert tab.locator("figure:visible").count() == len(PANELS) + 1
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    drawn = tab.locator("#watch ~ .panels svg").evaluate_all("all => all.map((one) => one.getBoundingClientRect().height)")
    assert len(drawn) == 5
    assert min(drawn) > 100
    headings = [tab.locator("h1, h2").nth(i).inner_text() for i in range(tab.locator("h1, h2").count())]
    assert headings[:3] == ["Training with L2T", "Watch these first", "The rest"]
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "look at them"  # the keyboard is enough
    numbers = tab.locator("details").first
    numbers.locator("summary").click()
    assert "at step 5" in numbers.inner_text()
    tab.locator("a").first.click()
    assert tab.locator("article").count() == 6


def test_report_in_light_and_dark_and_on_a_narrow_screen(visit, tmp_path):
    assert made(RUNS / "paper", "--out", tmp_path).exit_code == 0
    grounds = set()
    for scheme in ("light", "dark"):
        tab = visit(tmp_path / "report.html", color_scheme=scheme, viewport={"width": 390, "height": 800})
        grounds.add(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert len(grounds) == 2


def test_a_run_that_still_goes_one_that_crashed_and_one_without_some_metrics(tmp_path):
    going = shutil.copytree(RUNS / "paper", tmp_path / "going")
    with open(going / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "data": {"critic/sc')  # being written
    crashed = shutil.copytree(RUNS / "paper", tmp_path / "crashed")
    lines = (crashed / "metrics.jsonl").read_text().splitlines()
    (crashed / "metrics.jsonl").write_text("\n".join([*lines[:3], "Traceback", lines[3]]) + "\n")
    row = json.loads(lines[3])
    row["data"]["response_length/mean"] = 7.0
    (crashed / "metrics-later.jsonl").write_text(json.dumps(row) + "\n")  # its restart did step 4 again
    bare = tmp_path / "bare"
    bare.mkdir()
    bare_rows = [{"step": step, "data": {"critic/score/mean": 0.5, "actor/lr": float("nan")}} for step in (1, 2)]
    (bare / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare_rows))
    done = made(going, crashed, bare, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    runs = read_runs([str(going), str(crashed), str(bare)])
    assert [max(run.steps) for run in runs] == [5, 4, 2]
    assert runs[1].steps[4]["response_length/mean"] == 7.0
    assert "1 lines do not parse (the first is line 4)" in runs[1].notes[0]
    assert "steps from 4 on were done again" in runs[1].notes[1]
    assert "done again" in done.output
    file = shutil.copy(RUNS / "paper" / "metrics.jsonl", tmp_path / "experiment.jsonl")  # where verl puts it by itself
    assert [(run.name, max(run.steps)) for run in read_runs([str(file)])] == [("experiment", 5)]
    only_bare = made(bare, "--out", tmp_path / "only")
    assert only_bare.exit_code == 0, only_bare.output
    assert "Not drawn, since no run logs them" in (tmp_path / "only" / "report.html").read_text()


def test_a_clock_that_jumped_back_does_not_bring_back_what_was_done_again(tmp_path):
    for name, steps, age in (("metrics-2.jsonl", (1, 2, 3), 0), ("metrics-1.jsonl", (3, 4), -3600)):
        lines = [{"step": step, "data": {"critic/score/mean": float(name[8])}} for step in steps]
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        os.utime(tmp_path / name, (time.time() + age,) * 2)
    (run,) = read_runs([str(tmp_path)])
    assert run.series("critic/score/mean") == {1: 2.0, 2: 2.0, 3: 1.0, 4: 1.0}


def test_what_cannot_be_reported_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        ([tmp_path / "nowhere"], "nowhere is not there"),
        ([tmp_path / "empty"], "holds no metrics: verl's logger has to have `file`"),
        ([RUNS / "paper", "--step", "3"], "no rollouts of step 3; it has 1 to 5"),
    ):
        done = made(*arguments, "--out", tmp_path / "out")
        assert done.exit_code == 1
        assert said in " ".join(done.output.split())


def test_hostile_names_are_shown_and_never_run(tmp_path):
    run = shutil.copytree(RUNS / "paper", tmp_path / "a<script>alert(1)<")
    assert made(f"<b>x</b>={run}", "--out", tmp_path / "out").exit_code == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert re.search(r"a&lt;script&gt;alert\(1\)&lt;", text)


def test_seeds_are_drawn_as_their_mean_with_an_interval():
    runs = [Run(f"s{i}", "a", Path(), {1: {"x": value}, 2: {"x": 2 * value}}) for i, value in enumerate((1.0, 3.0))]
    runs.append(Run("other", "a", Path(), {1: {}}))  # it lacks the metric: it says nothing
    steps, mean, half = over_seeds(runs, "x")
    assert (steps.tolist(), mean.tolist()) == ([1, 2], [2.0, 4.0])
    assert half[0] == pytest.approx(12.706 * 1.0, rel=1e-3)  # t of one degree of freedom, times 2/sqrt(2)/sqrt(2)
    assert over_seeds(runs, "y")[0].tolist() == []


def test_times_are_whole_and_what_was_skipped_is_counted():
    values = {"timing_s/step": 10.0, "timing_s/gen": 6.0, "timing_s/l2t": 1.0, "l2t/skipped/no_episodes/total": 2.0}
    run = Run("a", "a", Path(), {1: values, 2: values | {"l2t/grading/ok/total": 0.0}})
    assert stage_times([run]) == {"a": {"gen": 6.0, "l2t": 1.0, "other": 3.0}}
    assert counters([run]) == [("a", "skipped/no_episodes", 4.0)]
    with pytest.raises(ReportError):
        read_runs(["./nowhere"])
