"""What Ray's nodes must have before any GPU is taken: enough GPUs, and this version of the package on each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import l2t_verl
from l2t_verl.config import ConfigError

SECONDS = 120.0  # for a node to start a process and import the package


def gpus_problem(nodes: Sequence[Mapping[str, Any]], count: int, gpus: int) -> str | None:
    """Say why these nodes are too few.

    Args:
        nodes: as `ray.nodes()` gives them.
        count: how many nodes are wanted.
        gpus: GPUs that each of them needs.

    Returns:
        The reason with the remedy; None if they are enough.
    """
    held = [(node["NodeName"], int(node["Resources"].get("GPU", 0))) for node in nodes if node["Alive"]]
    if sum(number // gpus for _, number in held) >= count:
        return None
    found = ", ".join(f"{name}: {number}" for name, number in held) or "none"
    return (
        f"trainer.nnodes={count} × trainer.n_gpus_per_node={gpus} GPUs are asked for, but this Ray cluster has "
        f"({found}); start the others, or set the two to what is there"
    )


def versions_problem(found: Mapping[str, str], expected: str) -> str | None:
    """Say on which nodes another version of this package is installed than the trainer's.

    Args:
        found: each node's version, or why it has none.
        expected: the trainer's version.

    Returns:
        The reason with the remedy; None if all versions agree.
    """
    others = [f"{name} ({what})" for name, what in found.items() if what != expected]
    if not others:
        return None
    return f"l2t_verl {expected} runs in the trainer, but not on {', '.join(others)}: install it there (pip install .)"


def check(config: Any) -> None:
    """Refuse a cluster that cannot train, before a worker is placed; for trainers that run inside it.

    Args:
        config: verl's whole configuration.

    Raises:
        ConfigError: there are too few GPUs, or another version of this package; the message names the nodes and the remedy.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    problems = [gpus_problem(nodes, config.trainer.nnodes, config.trainer.n_gpus_per_node)]
    problems.append(versions_problem(_versions(nodes), l2t_verl.__version__))
    if said := [problem for problem in problems if problem]:
        raise ConfigError("L2T cannot train on this cluster:\n" + "\n".join(f"  {problem}" for problem in said))


def _versions(nodes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Each GPU node's version of the package; the function is sent by value, for a node without it cannot import it."""

    def version() -> str:
        try:
            return str(__import__("l2t_verl").__version__)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    asked = {}
    for node in nodes:
        if node["Resources"].get("GPU", 0):
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[node["NodeName"]] = ray.remote(num_cpus=0, scheduling_strategy=here)(version).remote()
    found = {}
    for name, reference in asked.items():
        try:
            found[name] = ray.get(reference, timeout=SECONDS)
        except Exception as error:  # a node that cannot start a process at all, of many kinds
            found[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return found
