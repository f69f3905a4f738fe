"""Every branch of the scripts on stub machines: an interpreter, a pip and an `nvidia-smi` that note what they are asked.

What runs is a copy of the checkout's scripts, with nothing on the PATH but the stubs and the tools that the scripts call.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from recipes import environment

ROOT = Path(__file__).parent.parent
TOOLS = (
    "bash",
    "sh",
    "env",
    "cat",
    "chmod",
    "cksum",
    "tr",
    "grep",
    "mv",
    "rm",
    "dirname",
    "basename",
    "date",
    "mkdir",
    "tail",
    "head",
    "sed",
    "awk",
    "sleep",
    "printf",
    "uname",
)
# A Python that makes environments which are copies of itself, notes what pip is asked, and really runs the project's files.
PYTHON = """#!/bin/bash
echo "$(basename "$0") $*" >>"$CALLS"
venv=$(dirname "$(dirname "$0")")
case "$*" in
*"-m venv "*)
  folder=${!#}
  mkdir -p "$folder/bin" "$folder/lib/python3/site-packages"
  for name in python ruff; do cat "$0" >"$folder/bin/$name"; chmod +x "$folder/bin/$name"; done ;;
*"-m pip "*"install"*)
  for word in "$@"; do [ -z "${BROKEN:-}" ] || [ "$word" != "$BROKEN" ] || { echo "pip: no $BROKEN" >&2; exit 1; }; done
  case "$*" in *flash-attn==*) : >"$venv/lib/python3/site-packages/flash_attn-2.8.3.dist-info" ;; esac ;;
*recipes/environment.py*) exec "$REAL" -S "$@" ;;
-c*) exit "${TOO_OLD:-0}" ;;
esac
"""
NVIDIA_SMI = """#!/bin/bash
case "$*" in
-L) [ -z "${SMI_FAILS:-}" ] || { echo "$SMI_FAILS" >&2; exit 9; }; printf 'GPU 0: NVIDIA H100\\nGPU 1: NVIDIA H100\\n' ;;
*driver_version*) echo 999.1; echo 999.1 ;;
*) echo "| NVIDIA-SMI 999.1   Driver Version: 999.1   CUDA Version: ${SMI_CUDA:-13.0} |" ;;
esac
"""
TORCH = '"""As torch\'s own."""\n__version__ = "{version}"\ncuda = {cuda!r}\n'


@dataclass
class Machine:
    folder: Path
    gpus: bool = False
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder / "checkout"

    def run(self, script: str, *words: str, **variables: str) -> subprocess.CompletedProcess:
        (self.folder / "calls").write_text("")
        names = {"PATH": str(self.folder / "bin"), "CALLS": str(self.folder / "calls"), "REAL": sys.executable, "HOME": "/"}
        names |= {"PYTHONPATH": str(self.folder / "modules")} | self.variables | variables
        line = ["bash", str(self.root / script), *words]
        return subprocess.run(line, env=names, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False)

    @property
    def calls(self) -> str:
        return (self.folder / "calls").read_text()

    def has_torch(self, version: str, cuda: str | None, initial: str = "") -> None:
        """The torch that the environment's interpreter finds."""
        package = self.folder / "modules" / "torch"
        package.mkdir(parents=True, exist_ok=True)
        (package / "version.py").write_text(TORCH.format(version=version, cuda=cuda))
        (package / "__init__.py").write_text(initial)


@pytest.fixture
def machine(tmp_path):
    """A machine of some kind, with a checkout of the scripts."""

    def make(*, gpus: bool) -> Machine:
        made = Machine(tmp_path, gpus)
        (tmp_path / "bin").mkdir()
        for tool in TOOLS:
            if found := shutil.which(tool):
                (tmp_path / "bin" / tool).symlink_to(found)
        scripts = {"python3.11": PYTHON} | ({"nvidia-smi": NVIDIA_SMI} if gpus else {})
        for name, text in scripts.items():
            (tmp_path / "bin" / name).write_text(text)
            (tmp_path / "bin" / name).chmod(0o755)
        kept = shutil.ignore_patterns("controlled", "__pycache__")
        shutil.copytree(ROOT / "recipes", made.root / "recipes", ignore=kept)
        (made.root / "recipes" / "controlled").mkdir()
        shutil.copy(ROOT / "recipes" / "controlled" / "run.sh", made.root / "recipes" / "controlled")
        (made.root / "tests" / "gpu").mkdir(parents=True)
        for name in ("run.sh", "gpu/run.sh"):
            shutil.copy(ROOT / "tests" / name, made.root / "tests" / name)
        for name in ("pyproject.toml", "constraints-cpu.txt", "constraints-gpu.txt"):
            shutil.copy(ROOT / name, made.root)
        if gpus:
            made.has_torch("2.11.0+cu130", "13.0", "class cuda:\n    is_available = staticmethod(lambda: True)\n")
        else:
            made.has_torch("2.13.0+cpu", None)
        return made

    return make


# ---- setup.sh


def test_a_machine_without_a_gpu_gets_the_cpu_stack_once(machine):
    there = machine(gpus=False)
    done = there.run("recipes/setup.sh")
    assert done.returncode == 0, done.stderr
    assert "install --no-deps --retries 1 --timeout 20 --index-url" in there.calls
    assert "constraints-cpu.txt" in there.calls
    assert (there.root / ".venv" / ".l2t-stamp").exists()
    again = there.run("recipes/setup.sh")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert "-m pip" not in there.calls


def test_a_machine_with_gpus_gets_the_pinned_gpu_stack_once(machine):
    there = machine(gpus=True)
    done = there.run("recipes/setup.sh", "--gpu")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in there.calls.splitlines() if "verl[" in line]
    assert "install -c" in line
    assert "constraints-gpu.txt verl[vllm,math,cupy-cu130]==0.9.1" in line
    assert "flash-attn==" not in there.calls
    assert there.run("recipes/setup.sh", "--gpu").returncode == 0
    assert "-m pip" not in there.calls
    (there.root / "constraints-gpu.txt").write_text("torch==2.12.0\ncuda-toolkit==13.0.2\n")  # other pins: done again
    assert there.run("recipes/setup.sh", "--gpu").returncode == 0
    assert "verl[" in there.calls


def test_one_stack_is_not_put_over_the_other(machine):
    """As by VENV=.venv-gpu bash tests/run.sh, which would have broken 11 GB."""
    there = machine(gpus=True)
    assert there.run("recipes/setup.sh", "--gpu").returncode == 0
    done = there.run("tests/run.sh", VENV=str(there.root / ".venv-gpu"))
    assert done.returncode == 1
    assert "holds the stack for gpu, and the one for cpu would break it; set VENV to another folder" in done.stderr
    assert "-m pip" not in there.calls


def test_an_environment_of_another_checkout_is_refused_with_both_paths(machine):
    """It would run the other's code. The same checkout by another name is none; one that was installed as a copy is none."""
    there = machine(gpus=False)
    assert there.run("recipes/setup.sh").returncode == 0
    told = there.root / ".venv" / "lib" / "python3" / "site-packages" / "l2t_verl-0.1.0.dist-info" / "direct_url.json"
    told.parent.mkdir()
    other = there.folder / "another checkout"
    other.mkdir()
    for url, editable, refused in (
        (there.root.as_uri(), True, False),
        (other.as_uri(), True, True),
        (other.as_uri(), False, False),
        ((there.folder / "gone").as_uri(), True, True),
    ):
        told.write_text(json.dumps({"dir_info": {"editable": True} if editable else {}, "url": url}))
        done = there.run("recipes/setup.sh")
        assert done.returncode == int(refused), done.stderr
        assert "-m pip" not in there.calls
    told.write_text(json.dumps({"dir_info": {"editable": True}, "url": other.as_uri()}))
    done = there.run("recipes/setup.sh")
    (said,) = done.stderr.splitlines()
    assert f"{there.root / '.venv'} has the checkout in {other} installed" in said
    assert f"in the place of {there.root}; set VENV to another folder" in said
    link = there.folder / "link"
    link.symlink_to(there.root)
    told.write_text(json.dumps({"dir_info": {"editable": True}, "url": link.as_uri()}))
    assert there.run("recipes/setup.sh").returncode == 0


def test_the_pins_hold_what_the_modes_need():
    """The stack that verl's extras name, and the module by which `l2t_separate_async` sends weights."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints-gpu.txt").read_text(), re.MULTILINE))
    assert (pins["torch"], pins["vllm"], pins["transformers"]) == ("2.11.0", "0.24.0", "5.9.0")
    assert (pins["verl"], pins["ray"], pins["TransferQueue"]) == ("0.9.1", "2.60.0", "0.1.11")
    assert {"cupy-cuda13x", "tensordict", "peft", "pytest", "ruff", "datasets", "math-verify"} <= set(pins)
    assert environment.pinned(ROOT / "constraints-gpu.txt") == ("2.11.0", "13.0")
    lines = (ROOT / "constraints-gpu.txt").read_text().splitlines()
    assert all(line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.+]+", line) for line in lines)


def test_a_driver_too_old_is_refused_before_anything_is_fetched(machine):
    there = machine(gpus=True)
    done = there.run("recipes/setup.sh", "--gpu", SMI_CUDA="12.4")
    assert done.returncode == 1
    assert (
        "2 GPUs here have driver 999.1, which runs CUDA up to 12.4, but torch 2.11.0 is built for CUDA 13.0" in done.stderr
    )
    assert "-m pip" not in there.calls


def test_gpus_that_torch_does_not_see_are_refused(machine):
    there = machine(gpus=True)
    there.has_torch("2.11.0+cu130", "13.0", "class cuda:\n    is_available = staticmethod(lambda: False)\n")
    done = there.run("recipes/setup.sh", "--gpu")
    assert done.returncode == 1
    assert "2 GPUs (driver 999.1, which runs CUDA up to 13.0), but torch 2.11.0+cu130, built for CUDA 13.0" in done.stderr
    assert not (there.root / ".venv-gpu" / ".l2t-stamp").exists()


def test_a_gpu_environment_is_made_on_a_machine_without_one(machine):
    """A login node: nothing to try the driver on, and it says so."""
    done = machine(gpus=False).run("recipes/setup.sh", "--gpu")
    assert done.returncode == 0
    assert "no GPU is seen here" in done.stderr


def test_flash_attention_is_tried_once_and_again_when_asked(machine):
    there = machine(gpus=True)
    done = there.run("recipes/setup.sh", "--gpu", "--flash-attn", BROKEN="flash-attn==2.8.3")
    assert done.returncode == 0
    failed = there.root / ".venv-gpu" / "flash-attn.failed"
    assert "pip: no flash-attn==2.8.3" in failed.read_text()
    again = f"rm '{failed}' && bash recipes/setup.sh --gpu --flash-attn"
    assert again in done.stderr
    second = there.run("recipes/setup.sh", "--gpu", "--flash-attn")
    assert second.returncode == 0
    assert again in second.stderr
    assert "flash-attn==" not in there.calls
    failed.unlink()
    third = there.run("recipes/setup.sh", "--gpu", "--flash-attn")
    assert (third.returncode, third.stderr) == (0, "")
    assert "flash-attn==2.8.3" in there.calls
    assert there.run("recipes/setup.sh", "--gpu", "--flash-attn").returncode == 0
    assert "-m pip" not in there.calls  # it is in


@pytest.mark.parametrize("gpus", [True, False])
def test_a_package_that_cannot_be_had_is_named_with_line_and_remedy(machine, gpus):
    there = machine(gpus=gpus)
    broken = f"{there.root}[dev,tools]" if gpus else str(there.root)
    done = there.run("recipes/setup.sh", *["--gpu"] * gpus, BROKEN=broken)
    assert done.returncode == 1
    assert f"pip: no {broken}" in done.stderr
    assert re.search(
        r"setup\.sh: line \d+ of .*setup\.sh failed with exit status 1, installing the [CG]PU stack", done.stderr
    )
    assert "WHEELS=folder takes the packages from there" in done.stderr


def test_missing_pins_are_named(machine):
    there = machine(gpus=True)
    (there.root / "constraints-gpu.txt").unlink()
    done = there.run("recipes/setup.sh", "--gpu")
    assert done.returncode == 1
    assert "git restore pyproject.toml constraints-gpu.txt" in done.stderr


def test_a_folder_of_wheels_takes_the_place_of_the_network(machine):
    there = machine(gpus=False)
    assert "is no folder" in there.run("recipes/setup.sh", WHEELS="nowhere").stderr
    (there.folder / "wheels").mkdir()
    marked = PYTHON.replace('echo "$(basename', 'echo "$PIP_NO_INDEX $PIP_FIND_LINKS" >>"$CALLS"; echo "$(basename')
    (there.folder / "bin" / "python3.11").write_text(marked)
    done = there.run("recipes/setup.sh", WHEELS=str(there.folder / "wheels"))
    assert done.returncode == 0, done.stderr
    assert f"1 {there.folder / 'wheels'}" in there.calls


def test_an_interpreter_that_does_not_fit_and_an_unknown_word_are_named(machine):
    there = machine(gpus=False)
    assert "needs Python 3.11 or 3.12" in there.run("recipes/setup.sh", TOO_OLD="1").stderr
    assert "there is no option --cuda" in there.run("recipes/setup.sh", "--cuda").stderr


def test_a_cuda_build_on_the_cpu_path_is_refused_without_an_import(machine):
    """As with Python 3.12 where the index has no CPU build: its libraries are missing, and an import ends in a traceback."""
    there = machine(gpus=False)
    there.has_torch("2.13.0", "13.0", "raise OSError('libcudnn.so.9: cannot open shared object file')")
    done = there.run("recipes/setup.sh")
    assert done.returncode == 1
    assert "torch 2.13.0" in done.stderr
    assert "built for CUDA 13.0" in done.stderr
    assert "-m pip install --index-url" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (there.root / ".venv" / ".l2t-stamp").exists()


# ---- the scripts that call it


@pytest.mark.parametrize(("gpus", "venv"), [(True, ".venv-gpu"), (False, ".venv")])
@pytest.mark.parametrize(
    ("script", "words", "called"),
    [
        ("recipes/gsm8k_3b/run.sh", ["l2t", "--dry-run"], "python -m recipes.launch gsm8k_3b l2t --dry-run"),
        ("recipes/quickstart/run.sh", [], "python {root}/recipes/quickstart/train.py --prepared"),
    ],
)
def test_each_script_takes_the_environment_of_the_machine(machine, gpus, venv, script, words, called):
    there = machine(gpus=gpus)
    done = there.run(script, *words)
    assert done.returncode == 0, done.stderr
    assert called.format(root=there.root) in there.calls
    assert (there.root / venv / ".l2t-stamp").exists()
    assert ("flash-attn==2.8.3" in there.calls) == (gpus and "quickstart" not in script)


@pytest.mark.parametrize("gpus", [True, False])
def test_the_tests_run_in_either_environment_on_any_machine(machine, gpus):
    there = machine(gpus=gpus)
    done = there.run("tests/run.sh", "--stack", "gpu", "tests/test_credit.py")
    assert done.returncode == 0, done.stderr
    assert "ruff check ." in there.calls
    assert there.calls.splitlines()[-1] == "python -m pytest -n auto -m not slow and not cluster tests/test_credit.py"
    assert (there.root / ".venv-gpu" / ".l2t-stamp").exists()
    assert not (there.root / ".venv").exists()
    there.has_torch("2.13.0+cpu", None)
    assert there.run("tests/run.sh", "-m", "slow").returncode == 0
    assert there.calls.splitlines()[-1] == "python -m pytest -n auto -m slow"
    assert (there.root / ".venv" / ".l2t-stamp").exists()
    unknown = there.run("tests/run.sh", "--stack", "tpu")
    assert unknown.returncode == 2
    assert "there is no stack tpu" in unknown.stderr


def test_the_check_of_a_gpu_takes_the_environment_of_what_it_tries(machine):
    there = machine(gpus=True)
    done = there.run("tests/gpu/run.sh", OUT="/o")
    assert done.returncode == 0, done.stderr
    last = there.calls.splitlines()[-1]
    assert last == f"python {there.root}/tests/gpu/check.py --device cuda --out /o"
    assert (there.root / ".venv-gpu" / ".l2t-stamp").exists()
    there.has_torch("2.13.0+cpu", None)
    assert there.run("tests/gpu/run.sh", "--cpu").returncode == 0
    last = there.calls.splitlines()[-1]
    assert last == f"python {there.root}/tests/gpu/check.py --device cpu --out {there.root}/runs/gpu-check"
    assert (there.root / ".venv" / ".l2t-stamp").exists()


def test_the_check_of_a_gpu_says_where_there_is_none(machine):
    there = machine(gpus=False)
    done = there.run("tests/gpu/run.sh")
    assert done.returncode == 2
    assert "lists no GPU here; bash tests/gpu/run.sh --cpu tries what goes without one" in done.stderr
    done = there.run("tests/gpu/run.sh", "--fast")
    assert done.returncode == 2
    assert "--fast is not known; known: --cpu" in done.stderr
    assert "-m pip" not in there.calls


def test_the_controlled_comparison_runs_on_the_cpu_stack(machine):
    there = machine(gpus=True)
    there.has_torch("2.13.0+cpu", None)
    done = there.run("recipes/controlled/run.sh")
    assert done.returncode == 0, done.stderr
    assert "python -m recipes.controlled.grid one" in there.calls
    assert "python -m recipes.controlled.page" in there.calls


def test_a_sweep_checks_trains_evaluates_and_compares(machine):
    there = machine(gpus=True)
    for arm in ("grpo", "l2t"):
        (there.root / "runs" / f"gsm8k_3b-{arm}").mkdir(parents=True)
    done = there.run("recipes/sweep.sh", "gsm8k_3b", ARMS="grpo l2t")
    assert done.returncode == 0, done.stderr
    assert (there.root / ".venv-gpu" / ".l2t-stamp").exists()
    assert there.calls.count("-m recipes.launch gsm8k_3b grpo,l2t --dry-run") == 1
    assert there.calls.count("-m recipes.launch gsm8k_3b") == 3
    assert there.calls.count("-m l2t_verl.evaluate run") == 2
    assert there.calls.count("--benchmark gsm8k_test --data-parallel auto") == 2  # an engine on each GPU
    assert there.calls.count("-m l2t_verl.evaluate compare") == 1
    again = there.run("recipes/sweep.sh", "gsm8k_3b", ARMS="grpo l2t")
    assert again.returncode == 0
    assert there.calls.count("-m recipes.launch gsm8k_3b") == 1  # their check alone


def test_where_setup_fails_the_caller_ends_with_its_message_alone(machine):
    there = machine(gpus=True)
    for script in ("recipes/gsm8k_3b/run.sh", "recipes/quickstart/run.sh", "recipes/sweep.sh"):
        done = there.run(script, *(["gsm8k_3b"] if "sweep" in script else ["l2t"]), SMI_CUDA="12.4")
        assert done.returncode == 1, script
        assert done.stderr.count("install a driver for CUDA 13") == 1
        assert "failed with exit status" not in done.stderr
    done = there.run("recipes/gsm8k_3b/run.sh", "l2t", VENV=str(there.folder / "nowhere"))
    assert f"launch: there is no environment in VENV={there.folder / 'nowhere'}" in done.stderr


def test_a_driver_that_does_not_answer_is_not_silent(machine):
    """A login node has the program and no GPU; a module of another version is a broken machine, not one without GPUs."""
    there = machine(gpus=True)
    there.has_torch("2.13.0+cpu", None)
    done = there.run("recipes/gsm8k_3b/run.sh", "l2t", SMI_FAILS="couldn't communicate with the NVIDIA driver")
    assert done.returncode == 0
    assert "this machine is taken for one without a GPU" in done.stderr
    assert (there.root / ".venv" / ".l2t-stamp").exists()
    done = there.run(
        "recipes/gsm8k_3b/run.sh", "l2t", SMI_FAILS="Failed to initialize NVML: Driver/library version mismatch"
    )
    assert done.returncode == 1
    assert "Reload the driver" in done.stderr
    done = there.run("recipes/gsm8k_3b/run.sh", "l2t", SMI_FAILS="Driver/library version mismatch", VERL_PLATFORM="cpu")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", sorted(file.relative_to(ROOT) for file in (ROOT / "recipes").rglob("*.sh")), ids=str)
def test_no_step_of_a_script_ends_without_a_word(script):
    """Each either has the trap, or does one thing: become another script."""
    text = (ROOT / script).read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    becomes = len(lines) == 1 and lines[0].startswith("exec bash")
    # Slurm runs a copy of its script from a folder of its own, so that one has to look for the checkout first
    first = lines[2] if script.name == "slurm.sh" else lines[0]
    assert script.name == "shell.sh" or becomes or (first.startswith(". ") and 'shell.sh"' in first)
    checked = subprocess.run(["bash", "-n", str(ROOT / script)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


# ---- the device, as the launcher sees it


def test_the_launcher_does_not_fall_back_to_the_cpu_where_there_are_gpus(machine, monkeypatch):
    there = machine(gpus=True)
    monkeypatch.setenv("PATH", f"{there.folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    monkeypatch.setattr(environment, "installed_torch", lambda: ("2.11.0+cu130", "13.0"))
    monkeypatch.setenv("SMI_CUDA", "12.4")
    with pytest.raises(
        SystemExit, match=r"driver 999\.1, which runs CUDA up to 12\.4, but torch 2\.11\.0\+cu130 is built for"
    ):
        environment.bare_machine()
    monkeypatch.setenv("SMI_CUDA", "13.1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit, match="CUDA_VISIBLE_DEVICES='' hides them"):
        environment.bare_machine()
    monkeypatch.setattr(environment, "installed_torch", lambda: ("2.13.0+cpu", None))
    with pytest.raises(SystemExit, match=r"is a CPU build: make the environment by bash recipes/setup\.sh --gpu"):
        environment.bare_machine()
    monkeypatch.setenv("VERL_PLATFORM", "cpu")  # meant
    assert environment.bare_machine()["VLLM_TARGET_DEVICE"] == "cpu"


def test_a_machine_without_gpus_is_told_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    assert environment.driver() is None
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert environment.bare_machine()["VERL_PLATFORM"] == "cpu"
