"""One run: a start is trained as its settings say and measured; everything about it goes into one JSON file."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
import verl
from transformers import AutoModelForCausalLM, AutoTokenizer

from l2t_verl.files import write_whole
from recipes.controlled import loop
from recipes.controlled.evaluation import evaluate
from recipes.controlled.quality import quality
from recipes.controlled.settings import Settings


def run(settings: Settings, start: Path, results: Path) -> Path:
    """Do a run, unless its file is there.

    Args:
        settings: of the run.
        start: folder of the start's model.
        results: folder of the files; a run's file appears whole or not at all.

    Returns:
        The run's file.

    Raises:
        FileNotFoundError: there is no start.
    """
    command = f"python -m recipes.controlled.start --seed N --folder {start}"
    return once(settings, start, results, command, lambda: _found(settings, start))


def once(settings: Settings, start: Path, results: Path, makes_start: str, find: Callable[[], dict[str, Any]]) -> Path:
    """Write what `find` finds, between the run's settings and its seconds, unless the run's file is there.

    Raises:
        FileNotFoundError: there is no start; `makes_start` says by which command.
    """
    file = results / f"{settings.name}.json"
    if file.exists():
        return file
    if not start.is_dir():
        raise FileNotFoundError(f"{start} holds no start: make it with {makes_start}")
    began = time.time()
    found = {"settings": dataclasses.asdict(settings)} | find()
    write(file, found | {"seconds": time.time() - began})
    return file


def _found(settings: Settings, start: Path) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    model = model.to(device)  # type: ignore[arg-type] # transformers' wrapper loses self
    tokenizer = AutoTokenizer.from_pretrained(start)
    reference, curve = loop.train(settings, model, tokenizer)
    found: dict[str, Any] = {"made by": made_by(device)}
    found |= {"configuration": loop.method(settings).model_dump(), "curve": curve}
    policy = loop.computing(model, settings)
    found["evaluation"] = evaluate(settings, policy, tokenizer, loop.method(settings))
    if settings.quality:
        found["quality"] = quality(settings, policy, reference, tokenizer)
    return found


def write(file: Path, found: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(rounded(found), indent=1))


def rounded(value: Any) -> Any:
    """The same with six digits of each number."""
    if isinstance(value, dict):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def made_by(device: str) -> dict[str, str]:
    """What a run was made with."""
    versions = {module.__name__: module.__version__ for module in (torch, transformers, verl)}
    return {
        "revision": revision(),
        "processor": processor(),
        "device": device,
        "python": platform.python_version(),
    } | versions


def revision() -> str:
    """The git revision of this project, marked where files differ from it; L2T_REVISION names it where there is no git."""
    if named := os.environ.get("L2T_REVISION"):
        return named
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
