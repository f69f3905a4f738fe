"""What counts as a death, without a cluster: servers that answer or do not, actors that ended as they should or not."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import psutil
import pytest
from cluster import QUICKSTART
from ray.core.generated import common_pb2

from l2t_verl.plugin.driver import liveness


def serve(status: int) -> tuple[HTTPServer, str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"127.0.0.1:{server.server_port}"


def trainer(*addresses: str, engine: str = "vllm") -> SimpleNamespace:
    config = SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=SimpleNamespace(name=engine)))
    manager = SimpleNamespace(get_addresses=lambda: list(addresses))
    return SimpleNamespace(_rollout_server_managers=lambda: [manager], config=config)


@pytest.mark.parametrize(("status", "dead"), [(200, False), (404, False), (500, False), (503, True)])
def test_a_server_says_that_its_engine_is_dead(status, dead, monkeypatch):
    monkeypatch.setattr(liveness, "_actors", lambda state: [])
    server, address = serve(status)
    try:
        reason = liveness.Watch(trainer(address)).look()
        assert (reason is not None) is dead
        assert reason is None or address in reason
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_is_gone_and_one_of_several(monkeypatch):
    monkeypatch.setattr(liveness, "_actors", lambda state: [])
    alive, address = serve(200)
    gone, other = serve(200)
    gone.shutdown()
    gone.server_close()
    try:
        assert f"the rollout server at {other} died: connection refused" in liveness.Watch(trainer(address, other)).look()
        # SGLang's health check would ask a sleeping engine for a token
        assert liveness.Watch(trainer(address, other, engine="sglang")).look() is None
    finally:
        alive.shutdown()
        alive.server_close()


def test_a_proxy_of_the_environment_does_not_answer_for_the_cluster(monkeypatch):
    monkeypatch.setattr(liveness, "_actors", lambda state: [])
    proxy, proxy_address = serve(503)
    server, address = serve(200)
    monkeypatch.setenv("http_proxy", f"http://{proxy_address}")
    try:
        assert liveness.Watch(trainer(address)).look() is None
    finally:
        for running in (proxy, server):
            running.shutdown()
            running.server_close()


def actor(name: str, reason: str) -> dict:
    kind = common_pb2.ActorDiedErrorContext.Reason.Value(reason)
    context = common_pb2.ActorDiedErrorContext(reason=kind, error_message=reason.lower())
    cause = common_pb2.ActorDeathCause(actor_died_error_context=context)
    return {"ActorID": name, "ActorClassName": "Worker", "Name": name, "Pid": 1, "DeathCause": cause}


def test_only_the_actors_that_the_run_stands_on_count(monkeypatch):
    dead = [actor("tool", "WORKER_DIED"), actor("ended", "OUT_OF_SCOPE"), actor("dropped", "REF_DELETED")]
    monkeypatch.setattr(liveness, "_actors", lambda state: dead)
    own = liveness.Watch(trainer(), actors=frozenset({"ended", "dropped", "worker"}))
    assert own.look() is None
    dead.append(actor("worker", "WORKER_DIED"))
    assert own.look() == "the Ray actor Worker worker (pid 1) died: worker_died"
    assert "tool" in liveness.Watch(trainer()).look()  # while it starts, every actor counts


def test_an_error_ends_with_the_death_that_caused_it(monkeypatch):
    """verl's own words may be about rollouts that nobody sent; the last line on the screen is why."""
    monkeypatch.setattr(liveness, "_actors", lambda state: [actor("a", "WORKER_DIED")])
    with pytest.raises(liveness.ClusterDied) as raised, liveness.watch(trainer()):
        raise RuntimeError("a traceback\nat all")
    assert str(raised.value).splitlines() == [
        "the trainer saw RuntimeError: at all",
        "the Ray actor Worker a (pid 1) died: worker_died",
    ]


def test_an_actor_that_was_still_starting_is_watched(monkeypatch):
    """verl's agent-loop workers are asked for last, and training begins while they start."""
    actors = [
        actor("starting", "WORKER_DIED") | {"State": "PENDING_CREATION"},
        actor("gone", "WORKER_DIED") | {"State": "DEAD"},
    ]
    monkeypatch.setattr(
        liveness, "_actors", lambda state=None: [one for one in actors if state is None or one["State"] == state]
    )
    watched = trainer()
    with liveness.watch(watched, only_present=True):
        assert watched.cluster_watch.look() is None
        actors[0]["State"] = "DEAD"
        assert "starting" in watched.cluster_watch.look()


def test_the_poll_raises_what_the_watch_has_found():
    buffer = SimpleNamespace(_wait_for_next_poll=lambda partition_id, last: last + 1.0)
    owner = SimpleNamespace(cluster_watch=None)
    guarded = liveness.guard_buffer(buffer, owner)
    assert guarded._wait_for_next_poll("train", 1.0) == 2.0
    owner.cluster_watch = SimpleNamespace(reason=None)
    assert guarded._wait_for_next_poll("train", 1.0) == 2.0
    owner.cluster_watch = SimpleNamespace(reason="gone")
    with pytest.raises(liveness.ClusterDied, match="gone"):
        guarded._wait_for_next_poll("train", 1.0)


def test_a_trainer_that_is_stuck_is_ended_with_the_line_that_the_quickstart_looks_for(monkeypatch, capsys):
    sys.path.insert(0, str(QUICKSTART))
    import report

    def leave(status: int):
        raise SystemExit(status)

    monkeypatch.setattr(liveness, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(liveness, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(liveness.os, "_exit", leave)
    with pytest.raises(SystemExit) as ended:
        liveness._end_if_stuck(SimpleNamespace(look=lambda: "the server is gone"), threading.Event())
    assert ended.value.code == 1
    assert f"{report.GIVEN_UP}the server is gone" in capsys.readouterr().err


ENGINE = """
import multiprocessing, os, time
from l2t_verl.plugin.rollout import orphans

def engine():
    orphans.end_with_parent()
    orphans.end_with_parent()  # vLLM loads its plugins more than once
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    orphans.end_with_parent()  # a server that a shell has started
    child = multiprocessing.get_context("spawn").Process(target=engine)
    child.start()
    child.join()
"""


def test_an_engine_does_not_outlive_its_server(tmp_path):
    """However the server ends: it is killed here."""
    script = tmp_path / "server.py"
    script.write_text(ENGINE)
    server = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    engine = psutil.Process(int(server.stdout.readline()))
    server.kill()
    server.wait()
    assert psutil.wait_procs([engine], timeout=20)[1] == []
