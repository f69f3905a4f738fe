"""Interpreters as good as new for verl and for us: forked from one that has imported what both import, and takes longest."""

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

# Neither verl nor this project, and nothing that starts a thread when it is imported
IMPORTED = ("torch", "tensordict", "datasets", "peft", "transformers.image_processing_utils", "vllm.engine.arg_utils")
LONGEST = 300  # seconds of a code, and of the imports


def warm_up(*more: str) -> None:
    """Import it, and more, ready to be forked.

    Raises:
        AssertionError: a thread runs, which a fork would lose, or what a fork is to import is there already.
    """
    signal.alarm(LONGEST)
    for name in (*IMPORTED, *more):
        importlib.import_module(name)
    signal.alarm(0)
    assert threading.active_count() == 1, threading.enumerate()
    assert not {"verl", "l2t_verl"} & set(sys.modules)
    gc.freeze()  # shared with each fork as long as no collector looks through it


class Warm:
    """A process that has imported `IMPORTED`, and forks one for each code that it is given."""

    def __init__(self, environment: dict[str, str]):
        line = [sys.executable, "-P", __file__]
        self.process = subprocess.Popen(line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, code: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
        """As `python -P -c code` with this environment."""
        with TemporaryDirectory() as folder:
            files = [str(Path(folder) / name) for name in ("out", "err")]
            print(json.dumps([code, environment, files]), file=self.process.stdin, flush=True)
            status = int(self.process.stdout.readline())
            return subprocess.CompletedProcess(code, status, *(Path(file).read_text() for file in files))

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)


def serve(answers: TextIO) -> None:
    """Fork a process for each line of stdin, and say with which status it ended."""
    for line in sys.stdin:
        code, environment, files = json.loads(line)
        child = os.fork()
        if not child:
            _run(code, environment, files)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def _run(code: str, environment: dict[str, str], files: list[str]) -> None:
    signal.alarm(LONGEST)
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    status = 0
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    to_the_tests = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # for what prints while it is imported
    warm_up("ray")
    serve(to_the_tests)
