"""Whether a running Ray cluster has the nodes and GPUs that a job asks for; the trainer asks the same once it runs there.

python -m recipes.nodes ADDRESS NODES GPUS_OF_EACH    exit status 0 once they are there
"""

from __future__ import annotations

import sys

from l2t_verl.plugin.driver.cluster import gpus_problem


def main(address: str, count: str, gpus: str) -> None:
    import ray

    ray.init(address, logging_level="ERROR", log_to_driver=False)
    if problem := gpus_problem(ray.nodes(), int(count), int(gpus)):
        raise SystemExit(problem)


if __name__ == "__main__":
    main(*sys.argv[1:])
