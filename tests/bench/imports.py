"""What the plugin adds to `import verl`, which every process of a cluster pays: fresh interpreters, in turn."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

CODE = """
import time
start = time.perf_counter()
import verl
print(time.perf_counter() - start)
"""
POLICIES = {"without": "none", "with": "auto"}  # verl's VERL_USE_EXTERNAL_PLUGINS


def run(repeats: int, warm_up: int = 1) -> dict:
    """Median seconds of each import, after rounds that warm the file cache."""
    seconds: dict[str, list[float]] = {name: [] for name in POLICIES}
    for _ in range(warm_up + repeats):
        for name, policy in POLICIES.items():
            environment = os.environ | {"VERL_USE_EXTERNAL_PLUGINS": policy}
            done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
            seconds[name].append(float(done.stdout.splitlines()[-1]))
    medians = {name: statistics.median(values[warm_up:]) for name, values in seconds.items()}
    return {"seconds": medians, "plugin adds (s)": medians["with"] - medians["without"]}
