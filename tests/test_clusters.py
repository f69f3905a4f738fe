"""A recipe as a job of a Ray that others started, from a folder that is not the project's; then its end, and a resume."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny import read_jsonl, write_data, write_model
from two_raylets import two_raylets

from recipes.environment import bare_machine

ROOT = Path(__file__).parent.parent.resolve()
NAME = "two_raylets"  # of the run
PRICE = 0.5


def submit(cluster, *overrides: str) -> subprocess.Popen:
    """The launcher, as a user types it; what it says goes to a file."""
    line = [sys.executable, "-m", "recipes.launch", "gsm8k_3b", "l2t", "--launcher", "ray", "shrink=cpu", *overrides]
    return subprocess.Popen(
        line,
        cwd=ROOT,
        env=os.environ | bare_machine() | {"RAY_ADDRESS": cluster.jobs},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def drivers() -> list[psutil.Process]:
    """The job's own processes: those that run main_ppo with this run's name."""
    named = f"trainer.experiment_name={NAME}"
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "verl.trainer.main_ppo" in line and named in line:
            found.append(process)
    return found


def rows_of(run: Path) -> list[list[dict]]:
    """The metrics of each start, in order."""
    return [read_jsonl(file) for file in sorted(run.glob("metrics-*.jsonl"))]


@pytest.mark.slow
def test_a_job_on_nodes_of_others_writes_where_it_should_and_goes_on_after_its_death(tmp_path):
    """Folder, interpreter and variables are the project's on both nodes, or nothing of this is found; λ is the checkpoint's,
    whatever the command line says."""
    run = ROOT / "runs" / NAME
    assert not run.exists(), f"{run} is there, and this test would write there: remove it, if a killed test left it"
    train, validation = write_data(tmp_path / "data")
    settings = [
        f"trainer.experiment_name={NAME}",
        f"actor_rollout_ref.model.path={write_model(tmp_path / 'model')}",
        f"data.train_files={train}",
        f"data.val_files={validation}",
        "actor_rollout_ref.actor.optim.lr=1e-3",
        "+algorithm.l2t.credit.token_budget=20",
        f"algorithm.l2t.credit.length_cost={PRICE}",
        "++algorithm.l2t.diagnostics.displacement=True",
        "trainer.save_freq=2",
        "trainer.total_training_steps=6",  # the same for both starts: another end would bend the learning rate
    ]
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    try:
        with two_raylets(nowhere, cpus=12) as cluster:
            first = submit(cluster, *settings)
            latest = run / "checkpoints" / "latest_checkpointed_iteration.txt"
            end = time.monotonic() + 600
            while not latest.exists() or 2 not in [row["step"] for start in rows_of(run) for row in start]:
                assert first.poll() is None, first.stdout.read()[-5000:]
                assert time.monotonic() < end
                time.sleep(0.1)
            (driver,) = drivers()
            driver.send_signal(signal.SIGKILL)
            said, _ = first.communicate(timeout=120)
            assert first.returncode != 0, said[-5000:]

            step = int(latest.read_text())
            kept = run / "checkpoints" / f"global_step_{step}" / "l2t_state.json"
            state = json.loads(kept.read_text())
            # as if it had moved: a random model gives no right answer whose length would move it
            moved = {name: value + 0.25 for name, value in state["length_cost"].items()}
            kept.write_text(json.dumps(state | {"length_cost": moved}))
            second = submit(cluster, *settings)
            said, _ = second.communicate(timeout=600)
            assert second.returncode == 0, said[-5000:]
        before, after = rows_of(run)
        assert [row["step"] for row in before][:2] == [1, 2]
        assert [row["step"] for row in after] == list(range(step + 1, 7))
        row = after[0]
        assert row["data"]["l2t/length_cost"] == pytest.approx(PRICE + 0.25)
        assert row["data"]["l2t/displacement"] > 0  # the reference is the start model, not the checkpoint
        assert (run / "rollouts" / f"{step + 1}.jsonl").exists()
        assert not list(nowhere.rglob("*.jsonl")) and not (nowhere / "checkpoints").exists()
    finally:
        for driver in drivers():
            driver.kill()
        shutil.rmtree(run, ignore_errors=True)
