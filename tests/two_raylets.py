"""Two raylets on this machine, started from a folder and with an environment that know nothing of the project.

python tests/two_raylets.py FOLDER        by hand: what a task sees there that is started as main_ppo's are
with two_raylets(FOLDER) as address: …    from a test that may start clusters
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.resolve()
sys.path.insert(0, str(ROOT))


@contextmanager
def two_raylets(folder: Path, *, cpus: int = 8, gpus: int = 1, port: int = 26379) -> Iterator[str]:
    """The address of a cluster of two nodes that live here; the head has `gpus` logical ones, the other has none."""
    ray = str(Path(sys.executable).with_name("ray"))
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    raylets = []
    joins = ["--head", f"--port={port}", "--include-dashboard=false", f"--num-gpus={gpus}"], [f"--address=127.0.0.1:{port}"]
    try:
        for index, words in enumerate(joins):
            line = [ray, "start", *words, f"--num-cpus={cpus}", "--block", "--disable-usage-stats"]
            with open(folder / f"raylet{index}.log", "w") as log:
                raylets.append(subprocess.Popen(line, cwd=folder, env=bare, stdout=log, stderr=log, start_new_session=True))
            end = time.monotonic() + 60
            while "Ray runtime started" not in (text := (folder / f"raylet{index}.log").read_text()):
                assert raylets[-1].poll() is None, text
                assert time.monotonic() < end, text
                time.sleep(0.5)
        yield f"127.0.0.1:{port}"
    finally:
        for raylet in raylets[::-1]:
            raylet.terminate()
        for raylet in raylets:
            raylet.wait(30)


def seen_by_a_task(folder: Path) -> dict[str, str]:
    """Folder, interpreter, metrics file and checkpoints as a task of main_ppo's would see them."""
    import ray
    from omegaconf import OmegaConf
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    from recipes import launch, workers

    variables = {"VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl"), "VERL_PLATFORM": "cpu"}
    config = launch.composed("gsm8k_3b", ["shrink=cpu"])
    added = workers.overrides(config, variables, root=ROOT, python=sys.executable, running_ray=True)
    config = launch.composed("gsm8k_3b", ["shrink=cpu", *added])

    def look() -> dict[str, str]:
        names = ("VERL_FILE_LOGGER_PATH", "VERL_PLATFORM")
        return {"folder": os.getcwd(), "python": sys.executable} | {name: os.environ.get(name, "") for name in names}

    with two_raylets(folder) as address:
        # as main_ppo does
        settings = config.ray_kwargs.ray_init
        merged = OmegaConf.merge(get_ppo_ray_runtime_env(config), settings.get("runtime_env", {}))
        arguments = OmegaConf.to_container(OmegaConf.create({**settings, "runtime_env": merged}))
        ray.init(address=address, log_to_driver=False, **arguments)
        try:
            found = ray.get(ray.remote(look).remote(), timeout=120)
            return found | {"nodes": len(ray.nodes()), "checkpoints": config.trainer.default_local_dir}
        finally:
            ray.shutdown()


if __name__ == "__main__":
    where = Path(sys.argv[1]).resolve()
    where.mkdir(parents=True, exist_ok=True)
    print(json.dumps(seen_by_a_task(where), indent=1))
