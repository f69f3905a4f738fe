"""Each recipe's arms, two steps through verl's own trainer: the recipe's configuration, shrunk, with a small random model.

    python tests/bench/shrunk.py [--json tests/bench/results/shrunk.json]

Runs that are in the file already are left as they are; delete it to run all again.

All six arms of deepscaler_1p5b, and `l2t` of the others (of code also `mrt`, which samples programs); about two minutes each
on two cores. The model has the recipes' architecture, Qwen2; the problems are sums, and functions that add.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import write_data, write_model

from l2t_verl.data.build import as_row
from l2t_verl.data.problems import Problem, Tests
from l2t_verl.files import write_whole
from recipes.launch import ARMS, RECIPES

ROOT = Path(__file__).parents[2]
RUNS = [("deepscaler_1p5b", arm) for arm in ARMS] + [(recipe, "l2t") for recipe in RECIPES if recipe != "deepscaler_1p5b"]
RUNS += [("qwen2_7b_code", "mrt")]
KEPT = ("training/global_step", "critic/score/mean", "response_length/mean", "actor/grad_norm", "l2t/gain/mean",
        "l2t/compression/mean", "l2t/answer_score/end")  # fmt: skip


def write_programs(folder: Path) -> tuple[Path, Path]:
    """Problems with tests, as verl parquet files."""
    rows = []
    for i in range(16):
        tests = Tests(f"assert f(1) == {i + 1}")
        problem = Problem(str(i), f"f(x) = x + {i}?", f"def f(x):\n    return x + {i}", tests=tests)
        rows.append(as_row(problem, "sums_in_python", "train", i, ""))
    paths = folder / "programs.parquet", folder / "programs_val.parquet"
    for path, of in zip(paths, (rows, rows[:4]), strict=True):
        pd.DataFrame(of).to_parquet(path)
    return paths


def train(recipe: str, arm: str, folder: Path) -> dict:
    """One run: how long it took, and its last step's metrics.

    Raises:
        SystemExit: it failed, or took no two steps.
    """
    data = write_programs(folder) if recipe == "qwen2_7b_code" else write_data(folder / "data")
    name = f"shrunk/{recipe}-{arm}"
    shutil.rmtree(ROOT / "runs" / name, ignore_errors=True)
    line = ["bash", str(ROOT / "recipes" / recipe / "run.sh"), arm, "shrink=cpu", f"trainer.experiment_name={name}"]
    line += [f"actor_rollout_ref.model.path={folder / 'model'}", f"data.train_files={data[0]}", f"data.val_files={data[1]}"]
    since = time.monotonic()
    venv = {"VENV": str(Path(sys.executable).parents[1])}
    done = subprocess.run(line, env=os.environ | venv, capture_output=True, text=True, check=False)
    metrics = [json.loads(text) for file in (ROOT / "runs" / name).glob("metrics-*.jsonl") for text in file.open()]
    if done.returncode or len(metrics) != 2:
        raise SystemExit(
            f"{recipe}, {arm}: status {done.returncode}, {len(metrics)} steps\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    last = metrics[-1]["data"]
    return {"recipe": recipe, "arm": arm, "seconds": round(time.monotonic() - since), "steps": len(metrics)} | {
        key: last[key] for key in KEPT if key in last
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=ROOT / "tests" / "bench" / "results" / "shrunk.json")
    file = parser.parse_args().json
    found = json.loads(file.read_text())["runs"] if file.exists() else []
    versions = {name: importlib.metadata.version(name) for name in ("verl", "torch", "transformers", "ray")}
    machine = {
        "cores": os.cpu_count(),
        "system": platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
    }
    git = ["git", "describe", "--always", "--dirty"]
    revision = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "model")
        for recipe, arm in RUNS:
            if any((run["recipe"], run["arm"]) == (recipe, arm) for run in found):
                continue
            found.append(train(recipe, arm, Path(folder)) | {"revision": revision})
            print(found[-1], flush=True)
            write_whole(file, json.dumps({"machine": machine, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
