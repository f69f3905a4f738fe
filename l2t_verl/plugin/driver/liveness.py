"""A rollout server or worker that dies ends the run with the reason, instead of a trainer that waits for ever.

verl waits in two ways that a death does not interrupt: polling for rollouts that nobody generates any more, and calls
into the TransferQueue or a weight update whose other end is gone. A thread looks at the cluster; the poll asks it at each
turn, and when the trainer has not ended by itself within the grace period, the thread ends its process.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import ray

logger = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
GRACE_SECONDS = 30.0
# Why Ray says that an actor is gone, where nobody did anything wrong
EXPECTED = ("OUT_OF_SCOPE", "REF_DELETED", "RAY_KILL", "INTENDED")
# The cluster's own servers: a proxy that the environment names must not answer for them
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ClusterDied(RuntimeError):
    """A process that the run depends on is gone."""


class Watch:
    """What is known of the processes that a trainer depends on.

    Attributes:
        reason: what is wrong with the cluster, in words; None if nothing is.
    """

    def __init__(self, trainer: Any, actors: frozenset[str] | None = None):
        """Watch the given actors (hexadecimal ids) and the trainer's rollout servers; None: all actors of the job."""
        self.trainer, self.actors = trainer, actors
        self.reason: str | None = None

    def look(self) -> str | None:
        """Look at the cluster now."""
        self.reason = self._dead_actor() or self._dead_server()
        return self.reason

    def _dead_actor(self) -> str | None:
        for actor in _actors("DEAD"):
            if self.actors is not None and actor["ActorID"] not in self.actors:
                continue  # a tool's or a sandbox's, started later: not what the run stands on
            kind, message = _death_cause(actor)
            if kind not in EXPECTED:
                return f"the Ray actor {actor['ActorClassName']} {actor['Name']} (pid {actor['Pid']}) died: {message}"
        return None

    def _dead_server(self) -> str | None:
        trainer = self.trainer
        managers = trainer._rollout_server_managers()
        # SGLang's /health generates a token, which an engine that sleeps cannot; its actor is watched all the same
        if trainer.config.actor_rollout_ref.rollout.name != "vllm":
            return None
        addresses = [address for manager in managers for address in manager.get_addresses()]
        with ThreadPoolExecutor(max_workers=max(1, min(32, len(addresses)))) as pool:
            for address, detail in zip(addresses, pool.map(_unhealthy, addresses), strict=True):
                if detail is not None:
                    return f"the rollout server at {address} died: {detail}; its own error stands above in the log"
        return None


@contextmanager
def watch(trainer: Any, only_present: bool = False) -> Iterator[None]:
    """Watch the cluster while the block runs; an error of the block is reported with the death that caused it.

    Args:
        trainer: the trainer; `trainer.cluster_watch` is set for the duration.
        only_present: watch the actors that there are now, which is all that verl starts for a run once it trains.

    Raises:
        ClusterDied: the block failed and a process that it depends on is gone.
    """
    # the last ones to be asked for may still be starting
    present = frozenset(actor["ActorID"] for actor in _actors() if actor["State"] != "DEAD") if only_present else None
    found, done = Watch(trainer, present), threading.Event()
    trainer.cluster_watch = found
    threading.Thread(target=_end_if_stuck, args=(found, done), daemon=True, name="l2t-liveness").start()
    try:
        yield
    except ClusterDied:
        raise
    except Exception as error:
        reason = found.look()
        if reason is None:
            raise
        said = str(error).strip().splitlines() or [""]  # Ray's errors are whole tracebacks; they stand above
        # the cause last: it is what stands at the end of the screen
        raise ClusterDied(f"the trainer saw {type(error).__name__}: {said[-1]}\n{reason}") from error
    finally:
        done.set()
        trainer.cluster_watch = None


def guard_buffer(buffer: Any, trainer: Any) -> Any:
    """Make the replay buffer's poll ask whether anybody is left who could fill it."""
    wait = buffer._wait_for_next_poll

    def wait_for_next_poll(partition_id: str, last_debug_time: float) -> float:
        found = trainer.cluster_watch
        if found is not None and found.reason is not None:
            raise ClusterDied(found.reason)
        return wait(partition_id, last_debug_time)

    buffer._wait_for_next_poll = wait_for_next_poll
    return buffer


def _actors(state_name: str | None = None) -> list[dict[str, Any]]:
    """This job's actors, in a state or in any."""
    from ray._private import state

    job = ray.get_runtime_context().get_job_id()
    return [actor for actor in state.actors(actor_state_name=state_name).values() if actor["JobID"] == job]


def _death_cause(actor: dict[str, Any]) -> tuple[str, str]:
    """Ray's reason by name and its message."""
    cause = actor["DeathCause"]
    kind = cause.WhichOneof("context") if cause is not None else None
    if kind is None:
        return "INTENDED", "no cause given"
    context = getattr(cause, kind)
    message = " ".join(str(getattr(context, "error_message", "") or context).split())
    if "intended" in message.lower() or "exit_actor" in message:
        return "INTENDED", message
    if kind == "actor_died_error_context":
        return type(context).Reason.Name(context.reason), message
    return kind, message


def _unhealthy(address: str) -> str | None:
    """Why a vLLM server is dead: it answers /health with 503 then. A busy one answers late, which is no sign of death."""
    try:
        _direct.open(f"http://{address}/health", timeout=10).close()
    except urllib.error.HTTPError as error:
        return f"its engine is dead (HTTP {error.code})" if error.code == 503 else None
    except (ConnectionRefusedError, ConnectionResetError):
        return "connection refused"
    except urllib.error.URLError as error:
        refused = isinstance(error.reason, (ConnectionRefusedError, ConnectionResetError))
        return "connection refused" if refused else None
    except OSError:
        return None
    return None


def _end_if_stuck(found: Watch, done: threading.Event) -> None:
    since: float | None = None
    while not done.wait(CHECK_SECONDS):
        try:
            reason = found.look()
        except Exception as error:  # Ray itself is going down; the trainer will see that too
            logger.debug("l2t: liveness check failed: %s", error)
            continue
        if reason is None:
            since = None
            continue
        since = since or time.monotonic()
        if time.monotonic() - since > GRACE_SECONDS:
            print(f"l2t_verl: the run cannot go on: {reason}", file=sys.stderr, flush=True)
            os._exit(1)
