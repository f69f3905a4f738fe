"""The device of this machine: what its driver shows, whether the installed torch fits it, what verl's processes are told.

python recipes/environment.py driver CONSTRAINTS    whether the driver can run the torch that the file pins
python recipes/environment.py gpu|cpu               whether the torch that is installed is one for the device
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# A Ray of the run's own: no other on this machine is joined, which would then refuse its settings, and one whose store has
# died, which nothing brings back, is given up after half a minute
OWN_RAY = {"RAY_ADDRESS": "local", "RAY_gcs_rpc_server_reconnect_timeout_s": "30"}
ANYWAY = "VERL_PLATFORM=cpu in the environment goes on without GPUs"


@dataclass(frozen=True)
class Driver:
    """What `nvidia-smi` says.

    Attributes:
        gpus: how many it lists.
        version: of the driver.
        cuda: the newest CUDA that it runs; empty if it does not say.
    """

    gpus: int
    version: str
    cuda: str

    def __str__(self) -> str:
        return f"driver {self.version}" + (f", which runs CUDA up to {self.cuda}" if self.cuda else "")


def driver() -> Driver | None:
    """The driver of this machine's GPUs; None where none is listed, or where `VERL_PLATFORM=cpu` says that none counts."""
    if os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu":
        return None
    gpus = sum(line.startswith("GPU ") for line in _said("-L").splitlines())
    if not gpus:
        return None
    version = next(iter(_said("--query-gpu=driver_version", "--format=csv,noheader").splitlines()), "unknown")
    cuda = re.search(r"CUDA[\w ]*Version:\s*(\d+\.\d+)", _said())
    return Driver(gpus, version.strip(), cuda[1] if cuda else "")


def _said(*options: str) -> str:
    try:
        return subprocess.run(["nvidia-smi", *options], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def driver_problem(found: Driver | None, torch: str, cuda: str) -> str | None:
    """Why this driver cannot run that torch; None if it can, or if nobody knows.

    A driver runs all CUDA of its major version.

    Args:
        found: the driver.
        torch: version of torch.
        cuda: that torch was built for.
    """
    if found is None or not found.cuda or int(found.cuda.split(".")[0]) >= int(cuda.split(".")[0]):
        return None
    return (
        f"the {found.gpus} GPUs here have {found}, but torch {torch} is built for CUDA {cuda}: install a driver for CUDA "
        f"{cuda.split('.')[0]} or newer ({ANYWAY})"
    )


def pinned(constraints: Path) -> tuple[str, str]:
    """Versions of torch and of the CUDA that it is built for, from a file of pins."""
    pins = dict(re.findall(r"^([\w.-]+)==([\w.+-]+)", constraints.read_text(), re.MULTILINE))
    return pins["torch"], ".".join(pins["cuda-toolkit"].split(".")[:2])


def installed_torch() -> tuple[str, str | None]:
    """Versions of the installed torch and of its CUDA (None: a CPU build), without an import, which may fail.

    Raises:
        SystemExit: there is no torch.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit(f"setup: torch is not in {sys.prefix}; remove that folder and start recipes/setup.sh again")
    known = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    return known["__version__"], known["cuda"]


def check_cpu_build() -> None:
    """Refuse a torch for GPUs on the CPU path, where its libraries are missing.

    Raises:
        SystemExit: it is one; with the remedy.
    """
    version, cuda = installed_torch()
    if cuda is not None:
        raise SystemExit(
            f"setup: torch {version} in {sys.prefix} is built for CUDA {cuda}, but this is the CPU path: the package index "
            "has no CPU build of it for this Python, and PyTorch's own was not reached. Install a CPU build by hand "
            f"({sys.executable} -m pip install --index-url https://download.pytorch.org/whl/cpu torch=={version}), or"
            " take Python 3.11 (PYTHON=python3.11, after the folder is removed), and start it again"
        )


def check_gpus() -> None:
    """Refuse a torch that does not see the GPUs that the driver shows.

    Raises:
        SystemExit: with the versions of both and the remedy.
    """
    found = driver()
    if found is None:
        print("setup: no GPU is seen here, so the driver is not tried; the nodes' will be, at each start", file=sys.stderr)
        return
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(f"setup: {unseen(found)}")


def unseen(found: Driver) -> str:
    """What to say where the driver shows GPUs and torch sees none."""
    version, cuda = installed_torch()
    if cuda is None:
        return (
            f"nvidia-smi shows {found.gpus} GPUs ({found}), but torch {version} in {sys.prefix} is a CPU build: make the "
            f"environment by bash recipes/setup.sh --gpu ({ANYWAY})"
        )
    if problem := driver_problem(found, version, cuda):
        return problem
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    why = f"CUDA_VISIBLE_DEVICES={hidden!r} hides them" if hidden is not None else "see what torch.cuda.init() says"
    return (
        f"nvidia-smi shows {found.gpus} GPUs ({found}), but torch {version}, built for CUDA {cuda}, sees none: "
        f"{why} ({ANYWAY})"
    )


def bare_machine() -> dict[str, str]:
    """The process's environment, with verl and vLLM told that the device is the CPU where there is no other.

    Raises:
        SystemExit: the machine shows GPUs that torch does not see.
    """
    import psutil
    import torch

    values = {"TOKENIZERS_PARALLELISM": "false", "RAY_USAGE_STATS_ENABLED": "0", "VLLM_NO_USAGE_STATS": "1"}
    fixed: dict[str, str] = {}
    on_cpu = os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"
    if on_cpu or not torch.cuda.is_available():
        if found := driver():
            raise SystemExit(f"launch: {unseen(found)}")
        fixed |= {"VERL_PLATFORM": "cpu", "VLLM_TARGET_DEVICE": "cpu"}
        values |= {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": str(psutil.cpu_count(logical=False) or 1)}
        # vLLM compiles what it samples with: that wants a C++ compiler, and more seconds than a run on a CPU gets back
        values |= {"TORCHDYNAMO_DISABLE": "1"}
    return values | dict(os.environ) | fixed


def main(words: list[str]) -> None:
    if words[:1] == ["driver"]:
        if problem := driver_problem(driver(), *pinned(Path(words[1]))):
            raise SystemExit(f"setup: {problem}")
    elif words == ["gpu"]:
        check_gpus()
    elif words == ["cpu"]:
        check_cpu_build()
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
