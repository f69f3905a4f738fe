"""Runs stock `python -m verl.trainer.main_ppo` with quickstart.yaml and shows what happens, a line for each stage and step.

verl's own output goes to <run>/run.log, its metrics to <run>/metrics.jsonl, the rollouts to <run>/rollouts/.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import report

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.resolve().parents[1]))  # this file is run by its path

from recipes.environment import OWN_RAY, bare_machine  # noqa: E402

START = float(os.environ.get("START", time.time()))
# What verl's log says when a stage is over, and what then begins
STAGES = [
    (r"ray init kwargs", "Ray cluster starts"),
    (r"Started a local Ray instance|TaskRunnerV1 pid", "trainer starts: verl, vLLM and transformers are imported"),
    (r"train and validate dataloader initialized", "workers start: actor, reference policy (FSDP2)"),
    (r"actor and ref model engine initialized", "rollout engine starts: vLLM"),
    (r"checkpoint engine manager initialized", "weights go to the rollout engine, and are checked there"),
    (r"l2t_verl: weight update checked, (?P<detail>.*)", "training"),
]


def say(text: str) -> None:
    print(f"[{time.time() - START:4.0f}s] {text}", flush=True)


def environment(run: Path) -> dict[str, str]:
    """The process's environment, with what a machine without a GPU needs."""
    return bare_machine() | {
        "VERL_FILE_LOGGER_PATH": str(run / "metrics.jsonl"),
        "HYDRA_FULL_ERROR": "1",
        "RAY_DEDUP_LOGS": "0",
        **OWN_RAY,
        "PYTHONUNBUFFERED": "1",
    }


def command(prepared: dict[str, str], run: Path, steps: int, overrides: list[str]) -> list[str]:
    return [
        *(sys.executable, "-m", "verl.trainer.main_ppo", "--config-path", str(HERE), "--config-name", "quickstart"),
        f"hydra.run.dir={run}",
        "hydra.output_subdir=hydra",
        f"actor_rollout_ref.model.path={prepared['model']}",
        f"data.train_files={prepared['train']}",
        f"data.val_files={prepared['test']}",
        f"trainer.total_training_steps={steps}",
        f"trainer.rollout_data_dir={run / 'rollouts'}",
        f"trainer.default_local_dir={run / 'checkpoints'}",
        *overrides,
    ]


class Follower:
    """Prints stages from the log and steps from the metrics as they appear; keeps the peak memory of the process tree."""

    def __init__(self, run: Path, process: subprocess.Popen, steps: int):
        self.run, self.process, self.steps = run, process, steps
        self.stage, self.log_position, self.steps_seen = 0, 0, 0
        self.peak_memory = 0
        self.first_step: float | None = None
        self.process_info: psutil.Process | None = None

    def follow(self) -> int:
        while (code := self.process.poll()) is None:
            self.look()
            time.sleep(1.0)
        self.look()
        return code

    def look(self) -> None:
        self._look_at_log()
        self._look_at_metrics()
        self._look_at_memory()

    def _look_at_log(self) -> None:
        with open(self.run / "run.log", errors="replace") as log:
            log.seek(self.log_position)
            text = log.read()
            self.log_position = log.tell()
        while self.stage < len(STAGES):
            later = [(i, found) for i in range(self.stage, len(STAGES)) if (found := re.search(STAGES[i][0], text))]
            if not later:
                return
            index, found = later[-1]
            detail = found.groupdict().get("detail")
            say(STAGES[index][1] + (f" ({detail})" if detail else ""))
            self.stage = index + 1

    def _look_at_metrics(self) -> None:
        rows = report.read_jsonl(self.run / "metrics.jsonl")
        for row in rows[self.steps_seen :]:
            if self.first_step is None:
                self.first_step = time.time() - START
            say(f"step {row['step']} of {self.steps}: {report.step_line(row['data'])}")
        self.steps_seen = len(rows)

    def _look_at_memory(self) -> None:
        if self.process_info is not None:
            try:
                family = [self.process_info, *self.process_info.children(recursive=True)]
                self.peak_memory = max(self.peak_memory, sum(_private_memory(member) for member in family))
                return
            except (psutil.Error, AttributeError):
                pass
        self.process_info = psutil.Process(self.process.pid) if self.process.poll() is None else None


def _private_memory(process: psutil.Process) -> int:
    """Resident memory that is the process's own: what it shares with others is counted once, as nobody's."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0
    return memory.rss - memory.shared


def end_family(process: subprocess.Popen, seconds: float = 10.0) -> None:
    """End what this run started and left behind (Ray leaves processes when it is interrupted), by process group."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        end = time.monotonic() + seconds
        sent: int = sign
        while time.monotonic() < end:
            try:
                os.killpg(process.pid, sent)
            except ProcessLookupError:
                return
            sent = 0  # asked once; now only look whether they are gone
            process.poll()
            time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    arguments, overrides = parser.parse_known_args()
    run = arguments.run.resolve()
    run.mkdir(parents=True, exist_ok=True)
    say(f"verl starts; its log is {run / 'run.log'}")
    line = command(json.loads(arguments.prepared.read_text()), run, arguments.steps, overrides)
    (run / "command.txt").write_text(" \\\n  ".join(line) + "\n")
    with open(run / "run.log", "w") as log:
        process = subprocess.Popen(
            line, stdout=log, stderr=subprocess.STDOUT, env=environment(run), cwd=run, start_new_session=True
        )
    follower = Follower(run, process, arguments.steps)
    try:
        code = follower.follow()
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    finally:
        end_family(process)
    if code != 0:
        say(f"verl ended with exit status {code}; the whole log is {run / 'run.log'}; the error:")
        print(report.last_error(run / "run.log"), file=sys.stderr)
        return code
    summary = {
        "seconds_to_first_step": follower.first_step,
        "seconds": time.time() - START,
        "peak_memory_gib": follower.peak_memory / 2**30,
    }
    (run / "summary.json").write_text(json.dumps(summary, indent=1))
    report.show(run)
    # the same as a page, with every rollout's reward painted on; a run without it is still a run
    subprocess.run([sys.executable, "-m", "l2t_verl", "report", str(run), "--out", str(run / "report")], check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
