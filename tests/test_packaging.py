"""A wheel, installed outside the checkout: the core without verl, the plugin with it."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from stack import IS_CPU_STACK

ROOT = Path(__file__).parent.parent.resolve()
COMMANDS = ("pip install .", "bash tests/run.sh")  # the README's, tried here

CORE = """
import sys, importlib.metadata, importlib.util, pathlib
assert importlib.util.find_spec("verl") is None and importlib.util.find_spec("vllm") is None
import torch, l2t_verl, l2t_verl.patches
from l2t_verl import compression, config, credit, episodes, gain, grading
assert "site-packages" in l2t_verl.__file__, l2t_verl.__file__
assert "site-packages" in l2t_verl.patches.__file__
assert l2t_verl.__version__ == importlib.metadata.version("l2t-verl")
from transformers import LlamaConfig, LlamaForCausalLM
sizes = dict(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
scores = gain.answer_scores(LlamaForCausalLM(LlamaConfig(**sizes)), [1], [2, 3], [1, 2], [4], [5])
print("gains", gain.fitting_gains(scores).tolist())
assert config.load_config(None).alpha == 0.8
assert not [name for name in sys.modules if name.split(".")[0] == "verl"]
"""
# With verl: its own loading of plugins, from the installed wheel.
PLUGIN = """
import verl, l2t_verl
assert "wheelhouse" in l2t_verl.__file__, l2t_verl.__file__
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
assert get_adv_estimator_fn("l2t").__module__ == "l2t_verl.plugin.driver.estimator"
import verl.utils.distributed, torch.distributed
assert torch.distributed.init_process_group._l2t_gloo
import importlib.metadata
print("vllm", importlib.metadata.version("vllm"))
"""


def run(*command: str, cwd: Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """What a clone holds: the tracked files, without the environment around them."""
    folder = tmp_path_factory.mktemp("clone")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
            (folder / name).chmod((ROOT / name).stat().st_mode)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, checkout, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2
    assert "l2t_verl" in tops
    for name in ("l2t_verl/patches/gloo_backend.py", "l2t_verl/plugin/entry.py", "l2t_verl/report/templates/report.html.j2"):
        assert name in names
    entries = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    assert "[verl.plugins]\nl2t = l2t_verl.plugin.entry" in entries
    assert "[console_scripts]\nl2t-verl = l2t_verl.__main__:main" in entries
    assert "[vllm.general_plugins]\nl2t_cpu = l2t_verl.patches:apply_in_vllm\nl2t_orphans = " in entries


@pytest.mark.slow
def test_the_core_runs_in_an_environment_without_verl(wheel, tmp_path):
    """A fresh environment with torch, transformers and small libraries only, at the versions of the constraints."""
    run(sys.executable, "-m", "venv", tmp_path / "core", cwd=tmp_path)
    python = tmp_path / "core" / "bin" / "python"
    index = ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]  # where it can be reached: torch without CUDA
    pins = [line for line in (ROOT / "constraints-cpu.txt").read_text().splitlines() if line.startswith("torch==")]
    pip = [python, "-m", "pip", "install", "-q", "--retries", "1", "--timeout", "20"]
    run(*pip, "--no-deps", *pins, *index, cwd=tmp_path)
    run(*pip, "-c", ROOT / "constraints-cpu.txt", wheel, *index, cwd=tmp_path)
    assert "gains" in run(python, "-c", CORE, cwd=tmp_path)


@pytest.mark.slow
def test_the_plugin_loads_from_the_wheel_beside_verl(wheel, tmp_path):
    """The wheel in front of the checkout's editable install, as `pip install .` puts it beside a cluster's verl."""
    target = tmp_path / "wheelhouse"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, wheel, cwd=tmp_path)
    assert "vllm" in run(sys.executable, "-c", PLUGIN, cwd=tmp_path, PYTHONPATH=str(target), VERL_PLATFORM="cpu")
    for tool, source in (("report", "trained/paper"), ("inspect", "trained/paper/rollouts")):  # with their templates
        command = (sys.executable, "-m", "l2t_verl", tool, ROOT / "tests" / "fixtures" / source, "--out", tmp_path / tool)
        run(*command, cwd=tmp_path, PYTHONPATH=str(target))
        assert (tmp_path / tool / f"{tool}.html").exists()


@pytest.mark.slow
def test_the_drop_in_command_installs_beside_what_is_there(checkout, tmp_path):
    """`pip install .` in a clone, into an environment that sees this one's verl."""
    run(sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "cluster", cwd=tmp_path)
    python = tmp_path / "cluster" / "bin" / "python"
    site = next((Path(sys.prefix) / "lib").glob("python3*/site-packages"))
    link = next((tmp_path / "cluster" / "lib").glob("python3*/site-packages")) / "cluster.pth"
    link.write_text(f"{site}\n")
    run(python, "-m", *COMMANDS[0].split(), cwd=checkout)
    listed = json.loads(run(python, "-m", "pip", "list", "--format=json", cwd=tmp_path))
    assert {"l2t-verl", "verl"} <= {entry["name"] for entry in listed}
    shown = run(python, "-c", "import l2t_verl; print(l2t_verl.__file__)", cwd=tmp_path)
    assert str(tmp_path / "cluster") in shown


def test_the_test_command_runs_what_it_is_given(tmp_path):
    """With a file and a name, as one types it while working; the environment is the one at hand, one process is enough."""
    stack = [] if IS_CPU_STACK else ["--stack", "gpu"]
    command = [*COMMANDS[1].split(), *stack, "tests/test_credit.py", "-k", "by_hand"]
    assert "passed" in run(*command, cwd=ROOT, VENV=sys.prefix, WORKERS="0")
