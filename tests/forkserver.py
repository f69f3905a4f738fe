"""Processes forked from one that has imported what verl and vLLM import, which takes longest.

Neither verl nor this project is among it, nor Ray, which reads its settings when it is imported: each fork imports them, as
a user's process does. Forked are interpreters for a test's code (`run`), dry runs, pytest-xdist's and Ray's workers: such a
process hands its command line, environment and files to the server of its kind (`sitecustomize.py`). It ends with the status
of its fork; one that Ray starts ends at once, for Ray knows a worker by the id that it registers with. A server is started
where there is none, and ends with the tests.
"""

from __future__ import annotations

import fcntl
import gc
import hashlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from pathlib import Path

FOLDER = "L2T_TESTS_FORKS"  # the variable with the servers' folder; without it nothing is forked
# What an import looks at; the rest of the environment is set once a process has been forked
READ = ("PYTHON", "OMP_", "MKL_", "LD_", "TORCH", "VLLM_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "CUDA_")
# Nothing that starts a thread when it is imported, which a fork would lose
IMPORTED = (
    "torch",
    "tensordict",
    "datasets",
    "peft",
    "transformers.image_processing_utils",
    "vllm.engine.arg_utils",
    "vllm.entrypoints.openai.api_server",
)
READ_IT = b"."
LATER = {"ray", "verl", "l2t_verl"}
LONGEST = 120.0  # seconds until a server is there
CODE_LONGEST = 300  # seconds of a code


# ---- who asks


def run(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
    """As `python -P -c code` with this environment, but for what is imported under this process's own."""
    line = [sys.executable, "-P", "-c", code]
    if not os.environ.get(FOLDER):
        return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=CODE_LONGEST, check=False)
    request = {"code": code, "environment": environment, "folder": os.getcwd(), "waits": True}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, _server(dict(os.environ)) as server:
        _send(server, request, [0, out.fileno(), err.fileno()])
        status = _status(server)
        return subprocess.CompletedProcess(line, status, *(_whole(file) for file in (out, err)))


def leave_to_a_fork() -> None:
    """End, with a process forked in this place; go on where no server comes."""
    words, status = sys.orig_argv, 0
    waits = words[1] in ("-m", "-u")  # a dry run, a worker of pytest-xdist
    request = {"words": words, "environment": dict(os.environ), "folder": os.getcwd(), "waits": waits}
    try:
        with _server(dict(os.environ)) as server:
            _send(server, request, [0, 1, 2])
            if waits:
                status = _status(server)
    except OSError:
        return
    os._exit(status if status >= 0 else 128 - status)


def _send(server: socket.socket, request: dict, files: list[int]) -> None:
    content = json.dumps(request).encode()
    socket.send_fds(server, [len(content).to_bytes(8, "big")], files)
    server.sendall(content)
    if server.recv(1) != READ_IT:
        raise ConnectionError("the server is gone")


def _status(server: socket.socket) -> int:
    if not (line := server.makefile().readline()):
        raise ConnectionError("the server is gone")
    return int(line)


def _whole(file) -> str:
    file.seek(0)
    return file.read()


def _server(environment: dict[str, str]) -> socket.socket:
    """A connection to the server for this environment.

    Raises:
        OSError: there is none, and none could be started.
    """
    read = {name: value for name, value in environment.items() if name.startswith(READ)}
    name = hashlib.sha256(json.dumps([sys.executable, sorted(read.items())]).encode()).hexdigest()[:12]
    door = Path(environment[FOLDER]) / name
    with open(door.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _connected(door)
        except OSError:
            door.unlink(missing_ok=True)
        with open(door.with_suffix(".log"), "w") as log:
            line = [sys.executable, __file__, str(door)]
            server = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        end = time.monotonic() + LONGEST
        while server.poll() is None and time.monotonic() < end:
            try:
                return _connected(door)
            except OSError:
                time.sleep(0.05)
        raise ConnectionError(f"{door}: no server; its log says why")


def _connected(door: Path) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    try:
        found.connect(str(door))
    except OSError:
        found.close()
        raise
    return found


# ---- who forks


def serve(door: Path) -> None:
    """Fork a process for each that asks, as long as the folder is there and the process that is named in it."""
    for name in IMPORTED:
        importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()  # of Python's own; the libraries' pools start anew in a fork
    assert not LATER & set(sys.modules)
    gc.freeze()  # shared with each fork as long as no collector looks through it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{door}.new")
        listening.listen(64)
        listening.settimeout(1.0)
        os.rename(f"{door}.new", door)
        while door.exists() and Path("/proc", door.parent.name.split("-")[2]).exists():
            try:
                client, _ = listening.accept()
            except TimeoutError:
                continue
            if not os.fork():
                listening.close()
                _work(client)
            client.close()


def _work(client: socket.socket) -> None:
    """Be the process that is asked for."""
    client.setblocking(True)
    length, files, *_ = socket.recv_fds(client, 8, 3)
    received = bytearray()
    while len(received) < int.from_bytes(length, "big"):
        if not (part := client.recv(1 << 16)):
            os._exit(1)
        received += part
    client.sendall(READ_IT)
    request = json.loads(received)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if request["waits"] and (child := os.fork()):
        client.sendall(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())
        os._exit(0)
    client.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if "code" in request:
        _run(request["code"])
    sys.orig_argv, words = request["words"], request["words"][1:]
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], os.getcwd()
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-u":
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        sys.argv, sys.path[0] = ["-c"], ""
        exec(compile(words[2], "<string>", "exec"), vars(main))
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")
    sys.exit(0)


def _run(code: str) -> None:
    signal.alarm(CODE_LONGEST)
    del sys.path[0]
    status = 0
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
