"""Ray's workers, forked from a process that has imported what verl and vLLM import, which takes longest.

Neither verl nor this project is among it: each worker imports them, as a user's does. A process that Ray starts hands its
command line, environment and files to the server of its kind (`sitecustomize.py`), which it starts where there is none, and
ends: Ray knows a worker by the id that it registers with.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import warm

FOLDER = "L2T_TESTS_FORKS"  # the variable with the servers' folder; without it nothing is forked
# What an import looks at; the rest of the environment is set once a worker has been forked
READ = ("PYTHON", "OMP_", "MKL_", "LD_", "TORCH", "VLLM_", "HF_", "TRANSFORMERS_", "TOKENIZERS_", "CUDA_", "VERL_PLATFORM")
LONGEST = 120.0  # seconds until a server is there


def leave_to_a_fork() -> None:
    """End, with a worker forked in this place; go on where it has no environment of its own, or no server comes."""
    words = sys.orig_argv
    if (told := _environment(words)) is None:
        return
    request = json.dumps({"words": words, "environment": dict(os.environ), "folder": os.getcwd()}).encode()
    try:
        with _server(os.environ | told) as server:
            socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
            server.sendall(request)
            server.recv(1)  # the other has read it
    except OSError:
        return
    os._exit(0)


def _environment(words: list[str]) -> dict[str, str] | None:
    """What Ray's runtime environment adds for this worker; None for one that is started in advance and imports nothing."""
    given = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
    if words[1].endswith("setup_worker.py"):
        return json.loads(given.get("--serialized-runtime-env-context", "{}")).get("env_vars") or None
    return {} if given.get("--runtime-env-hash", "0") != "0" else None


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


def serve(door: Path) -> None:
    """Fork a worker for each that asks, as long as the folder is there and the process that is named in it."""
    warm.warm_up("vllm.entrypoints.openai.api_server")
    assert "ray" not in sys.modules  # it reads its settings when it is imported, the raylet that it belongs to among them
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
    client.setblocking(True)
    length, files, *_ = socket.recv_fds(client, 8, 3)
    received = bytearray()
    while len(received) < int.from_bytes(length, "big"):
        received += client.recv(1 << 16)
    client.sendall(b".")
    client.close()
    request = json.loads(received)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.orig_argv, sys.argv = request["words"], request["words"][1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit(0)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
