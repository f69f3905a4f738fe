"""Where weights cross from a worker to its vLLM engine: a socket of this Ray cluster, not of every one on the machine.

verl 0.9.1 names the socket after Ray's job, and the first job of any cluster is number 1: of two trainings on one machine,
each with a Ray of its own, an engine may be handed the other's weights, without a word where the models are alike.
Both sides add the cluster to the name: the worker here, the engine's server in `server`.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import Any

import ray
from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter

JOB = "VERL_RAY_JOB_ID"  # an engine's processes name the socket by it


def with_cluster(job: str) -> str:
    """Ray's job id and the cluster that it belongs to; what already names both is left as it is."""
    cluster = f"{zlib.crc32(ray.get_runtime_context().get_session_name().encode()):08x}"
    return job if job.endswith(f"-{cluster}") else f"{job}-{cluster}"


def after(init: Callable[..., None], then: Callable[[Any], None]) -> Callable[..., None]:
    """An `__init__` that goes on with `then`, which is given the object."""

    def both(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        then(self)

    return both


def name_engine_side(_server: Any) -> None:
    """For the engine's processes, which the server starts later and which have its environment."""
    os.environ[JOB] = with_cluster(os.environ[JOB])


def name_worker_side(adapter: Any) -> None:
    """For verl's worker, which has made its name already."""
    job = ray.get_runtime_context().get_job_id()
    adapter.zmq_handle = adapter.zmq_handle.replace(f"-{job}-replica-", f"-{with_cluster(job)}-replica-")


ServerAdapter.__init__ = after(ServerAdapter.__init__, name_worker_side)
