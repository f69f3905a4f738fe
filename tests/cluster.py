"""Starts stock `python -m verl.trainer.main_ppo` on the quickstart's configuration with a tiny model."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from tiny import read_jsonl

QUICKSTART = Path(__file__).parent.parent.resolve() / "recipes" / "quickstart"
sys.path.insert(0, str(QUICKSTART))
TINY = [
    "data.max_prompt_length=64",
    "data.max_response_length=48",
    "actor_rollout_ref.rollout.max_model_len=256",
    "actor_rollout_ref.rollout.max_num_seqs=16",
    "algorithm.l2t.episodes.method=fixed_tokens",
    "+algorithm.l2t.episodes.tokens_per_episode=12",
]


def composed(*overrides: str):
    """The quickstart's whole configuration, as main_ppo gets it."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(QUICKSTART), version_base=None):
        return compose("quickstart", overrides=list(overrides))


@dataclass
class Run:
    folder: Path
    process: subprocess.Popen

    @property
    def log(self) -> str:
        return (self.folder / "run.log").read_text(errors="replace")

    def metrics(self) -> list[dict]:
        path = self.folder / "metrics.jsonl"
        return read_jsonl(path) if path.exists() else []

    def wait(self, seconds: float) -> int:
        """The exit status; ends the run's own processes, by group, when the time is over."""
        try:
            return self.process.wait(seconds)
        finally:
            self.end()

    def wait_for(self, text: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while text not in self.log:
            assert self.process.poll() is None, self.tail()
            assert time.monotonic() < end, f"{text!r} did not appear within {seconds} s\n{self.tail()}"
            time.sleep(1.0)

    def end(self) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sign)
            except ProcessLookupError:
                return
            time.sleep(3.0)

    def family(self) -> list[psutil.Process]:
        """The driver and what it started; Ray's workers, too, that were forked from another (`forkserver.py`)."""
        try:
            driver = psutil.Process(self.process.pid)
            found = {driver, *driver.children(recursive=True)}
        except psutil.NoSuchProcess:
            return []
        session = next((word for member in found for word in _words(member) if word.startswith("--session_dir=")), None)
        if session is not None:
            logs = session.partition("=")[2] + "/logs/"
            for other in set(psutil.process_iter()) - found:
                with contextlib.suppress(OSError, psutil.Error):
                    if os.readlink(f"/proc/{other.pid}/fd/1").startswith(logs):
                        found |= {other, *other.children(recursive=True)}
        return sorted(found, key=lambda member: member.pid)

    def tail(self) -> str:
        from report import last_error

        return last_error(self.folder / "run.log", 60)


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


def start(
    folder: Path, model: Path, data: tuple[Path, Path], steps: int, *overrides: str, variables: dict[str, str] | None = None
) -> Run:
    from train import command, environment

    folder.mkdir(parents=True, exist_ok=True)
    prepared = {"model": str(model), "train": str(data[0]), "test": str(data[1])}
    line = command(prepared, folder, steps, [*TINY, *overrides])
    # the path is for what verl imports of a test: agent loops, scorers, checkpoint engines
    variables = environment(folder) | {"PYTHONPATH": str(Path(__file__).parent)} | (variables or {})
    with open(folder / "run.log", "a") as log:
        process = subprocess.Popen(
            line, stdout=log, stderr=subprocess.STDOUT, env=variables, cwd=folder, start_new_session=True
        )
    return Run(folder, process)
