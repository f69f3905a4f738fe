"""A rollout server or worker that dies ends the run with the reason, instead of a trainer that waits for ever.

verl waits in two ways that a death does not interrupt: polling for rollouts that nobody generates any more, and calls
into the TransferQueue or a weight update whose other end is gone. The poll is guarded in place; for the rest a thread
looks at the cluster and, when the trainer has not ended by itself within the grace period, ends its process.
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
from contextlib import contextmanager
from typing import Any

import ray

logger = logging.getLogger(__name__)

CHECK_SECONDS = 5.0
GRACE_SECONDS = 30.0
# Why Ray says that an actor is gone, where nobody did anything wrong
EXPECTED = ("OUT_OF_SCOPE", "RAY_KILL", "INTENDED")


class ClusterDied(RuntimeError):
    """A process that the run depends on is gone."""


@contextmanager
def watch(trainer: Any) -> Iterator[None]:
    """Watch the cluster while the block runs; an error of the block is reported with the death that caused it.

    Raises:
        ClusterDied: the block failed and a process that it depends on is gone.
    """
    done = threading.Event()
    thread = threading.Thread(target=_end_if_stuck, args=(trainer, done), daemon=True, name="l2t-liveness")
    thread.start()
    try:
        yield
    except ClusterDied:
        raise
    except Exception as error:
        reason = problem(trainer)
        if reason is None:
            raise
        raise ClusterDied(f"{reason}\nThe trainer saw: {type(error).__name__}: {error}") from error
    finally:
        done.set()


def guard_buffer(buffer: Any, trainer: Any) -> Any:
    """Make the replay buffer's poll look whether anybody is left who could fill it."""
    wait = buffer._wait_for_next_poll

    def wait_for_next_poll(partition_id: str, last_debug_time: float) -> float:
        reason = problem(trainer)
        if reason is not None:
            raise ClusterDied(reason)
        return wait(partition_id, last_debug_time)

    buffer._wait_for_next_poll = wait_for_next_poll
    return buffer


def problem(trainer: Any) -> str | None:
    """What is wrong with the cluster, in words; None if nothing is."""
    for actor in _dead_actors():
        return f"the Ray actor {actor['ActorClassName']} {actor['Name']} (pid {actor['Pid']}) died: {_death_cause(actor)[1]}"
    manager = getattr(trainer, "llm_server_manager", None)
    for address in manager.get_addresses() if manager is not None else []:
        detail = _unhealthy(address)
        if detail is not None:
            return f"the rollout server at {address} died: {detail}; its own error stands above in the log"
    return None


def _dead_actors() -> list[dict[str, Any]]:
    from ray._private import state

    job = ray.get_runtime_context().get_job_id()
    actors = state.actors(actor_state_name="DEAD").values()
    return [actor for actor in actors if actor["JobID"] == job and _death_cause(actor)[0] not in EXPECTED]


def _death_cause(actor: dict[str, Any]) -> tuple[str, str]:
    """Ray's reason by name and its message."""
    cause = actor["DeathCause"]
    kind = cause.WhichOneof("context") if cause is not None else None
    if kind is None:
        return "INTENDED", "no cause given"
    context = getattr(cause, kind)
    message = str(getattr(context, "error_message", "") or context).strip()
    if "intended" in message.lower() or "exit_actor" in message:
        return "INTENDED", message
    if kind == "actor_died_error_context":
        return type(context).Reason.Name(context.reason), message
    return kind, message


def _unhealthy(address: str) -> str | None:
    """VLLM answers /health with 503 once its engine is dead, SGLang likewise; a busy server answers late, not never."""
    try:
        urllib.request.urlopen(f"http://{address}/health", timeout=10).close()
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


def _end_if_stuck(trainer: Any, done: threading.Event) -> None:
    since: float | None = None
    while not done.wait(CHECK_SECONDS):
        try:
            reason = problem(trainer)
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
