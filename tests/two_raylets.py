"""Two Ray nodes on this machine, started from a folder and with an environment that know nothing of the project.

with two_raylets(FOLDER) as cluster: …    from a test that may start clusters
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import forkserver


class Cluster(NamedTuple):
    address: str  # host:port, as RAY_ADDRESS for a driver
    jobs: str  # URL, as RAY_ADDRESS for `ray job submit`


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@contextmanager
def two_raylets(folder: Path, *, cpus: int = 8, gpus: int = 1) -> Iterator[Cluster]:
    """A cluster of two nodes that live here; the head has `gpus` logical ones, the other has none."""
    ray = str(Path(sys.executable).with_name("ray"))
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    # Workers that find the tests' folder, which is not here but among what the job brings, are forked as in other tests
    bare |= {forkserver.FOLDER: os.environ.get(forkserver.FOLDER, "")}
    port, jobs = free_ports(2)
    head = ["--head", f"--port={port}", "--include-dashboard=true", f"--dashboard-port={jobs}", f"--num-gpus={gpus}"]
    raylets: list[subprocess.Popen] = []
    try:
        for index, words in enumerate((head, [f"--address=127.0.0.1:{port}", "--num-gpus=0"])):
            line = [ray, "start", *words, f"--num-cpus={cpus}", "--block", "--disable-usage-stats"]
            with open(folder / f"raylet{index}.log", "w") as log:
                raylets.append(subprocess.Popen(line, cwd=folder, env=bare, stdout=log, stderr=log, start_new_session=True))
            end = time.monotonic() + 120
            while "Ray runtime started" not in (text := (folder / f"raylet{index}.log").read_text()):
                assert raylets[-1].poll() is None, text
                assert time.monotonic() < end, text
                time.sleep(0.5)
        cluster = Cluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{jobs}")
        _wait_for_jobs(cluster.jobs)
        yield cluster
    finally:
        for raylet in raylets[::-1]:
            raylet.terminate()
        for raylet in raylets:
            raylet.wait(60)


def _wait_for_jobs(url: str) -> None:
    """Until the head takes jobs: its agent comes up after the node, on a busy machine much later."""
    from ray.job_submission import JobSubmissionClient

    end = time.monotonic() + 180
    while True:
        try:
            JobSubmissionClient(url).submit_job(entrypoint="true")
            return
        except (RuntimeError, ConnectionError) as error:
            assert time.monotonic() < end, error
            time.sleep(1.0)
