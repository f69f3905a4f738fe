"""Where weights cross from a worker to its vLLM engine: a socket of this Ray cluster, not of every one on the machine.

verl 0.9.1 names the socket after Ray's job, and the first job of any cluster is number 1: of two trainings on one machine,
each with a Ray of its own, an engine may be handed the other's weights, without a word where the models are alike.
"""

from __future__ import annotations

import os
import zlib
from typing import Any

import ray
from verl.workers.rollout.vllm_rollout import vllm_async_server, vllm_rollout

JOB = "VERL_RAY_JOB_ID"  # the vLLM workers name the socket by it


def with_cluster(job: str) -> str:
    """Ray's job id and the cluster that it belongs to; what names a job already named so is left as it is."""
    cluster = f"{zlib.crc32(ray.get_runtime_context().get_session_name().encode()):08x}"
    return job if job.endswith(f"-{cluster}") else f"{job}-{cluster}"


def _after(init: Any, then: Any) -> Any:
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        then(self)

    return wrapped


def _name_server_side(server: Any) -> None:
    os.environ[JOB] = with_cluster(os.environ[JOB])


def _name_worker_side(adapter: Any) -> None:
    job = ray.get_runtime_context().get_job_id()
    adapter.zmq_handle = adapter.zmq_handle.replace(f"-{job}-replica-", f"-{with_cluster(job)}-replica-")


vllm_async_server.vLLMHttpServer.__init__ = _after(vllm_async_server.vLLMHttpServer.__init__, _name_server_side)
vllm_rollout.ServerAdapter.__init__ = _after(vllm_rollout.ServerAdapter.__init__, _name_worker_side)
