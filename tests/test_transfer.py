"""The socket that weights cross by: both of its ends have one name, and no other cluster's on the machine has it."""

import inspect
import os
from types import SimpleNamespace

import pytest
import ray
import verl  # noqa: F401  first, as in every process of a run: it loads the plugin
from verl.workers.rollout.vllm_rollout import vllm_async_server, vllm_rollout
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

from l2t_verl.plugin.rollout import transfer

JOB = "01000000"  # the first of every cluster


@pytest.fixture
def ends(monkeypatch):
    """The names that a worker and an engine of cluster `session` have for their socket."""

    def of(session: str) -> tuple[str, str]:
        context = SimpleNamespace(get_session_name=lambda: session, get_job_id=lambda: JOB)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
        monkeypatch.setenv("VERL_REPLICA_RANK", "0")
        monkeypatch.setenv(transfer.JOB, JOB)
        worker = SimpleNamespace(zmq_handle=f"ipc:///tmp/rl-colocate-zmq-{JOB}-replica-0-rank-0.sock")
        transfer.name_worker_side(worker)
        transfer.name_engine_side(None)
        transfer.name_engine_side(None)  # a server's subclass comes by twice
        engine = SimpleNamespace(local_rank=0, model_runner=SimpleNamespace())
        return worker.zmq_handle, vLLMColocateWorkerExtension._get_zmq_handle(engine)

    return of


def test_both_ends_of_a_cluster_meet_and_those_of_two_do_not(ends):
    first, second = ends("session_2026-01-01_00-00-00_1"), ends("session_2026-01-01_00-00-00_2")
    assert first[0] == first[1] != second[0] == second[1]
    assert JOB in first[0] and len(os.path.basename(first[0])) < 90, "a socket's path is 107 bytes at most"


def test_verl_makes_its_objects_so():
    for made, name in ((vllm_rollout.ServerAdapter, "zmq_handle"), (vllm_async_server.vLLMHttpServer, transfer.JOB)):
        init = inspect.getclosurevars(made.__init__).nonlocals
        assert name in inspect.getsource(init["init"]), f"verl sets {name} elsewhere: plugin/rollout/transfer.py names it"
        assert init["then"] in (transfer.name_worker_side, transfer.name_engine_side)
