"""What a running Ray cluster is: how many nodes and GPUs, and whether that is enough.

python -m recipes.nodes ADDRESS NODES GPUS_OF_EACH    exit status 0 once they are there
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any


def problem_of(nodes: Sequence[dict[str, Any]], count: int, gpus: int) -> str | None:
    """Why these are too few; None if they are enough.

    Args:
        nodes: as `ray.nodes()` gives them.
        count: nodes that are wanted.
        gpus: of each.
    """
    alive = [node for node in nodes if node.get("Alive")]
    fitting = [node for node in alive if node.get("Resources", {}).get("GPU", 0) >= gpus]
    if len(fitting) >= count:
        return None
    held = ", ".join(f"{node.get('NodeName', '?')}: {node.get('Resources', {}).get('GPU', 0):g}" for node in alive) or "none"
    return (
        f"the Ray cluster has {len(fitting)} nodes with {gpus} GPUs, but trainer.nnodes={count} "
        f"trainer.n_gpus_per_node={gpus} are asked for (GPUs of the nodes that are alive: {held}); start the others, or set "
        "the two to what is there"
    )


def main(address: str, count: str, gpus: str) -> None:
    import ray

    ray.init(address, logging_level="ERROR", log_to_driver=False)
    if problem := problem_of(ray.nodes(), int(count), int(gpus)):
        raise SystemExit(problem)


if __name__ == "__main__":
    main(*sys.argv[1:])
