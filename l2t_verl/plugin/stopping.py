"""SIGTERM, Slurm's word that the time is over, asks for a checkpoint: the step is finished, saved, and the run ends.

The signal reaches the driver's process, the trainer lives in another, perhaps on another node: Ray's own store has the word.
A second signal ends the run at once, as the first one does where nobody listens (another trainer, or none yet).
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

LISTENS, ASKED = b"l2t_listens", b"l2t_stop"


def listen() -> None:
    """Say that a trainer will look whether it is asked to end."""
    if store := _store():
        store._internal_kv_del(ASKED)
        store._internal_kv_put(LISTENS, b"1")


def asked() -> bool:
    """Whether the run is asked to end."""
    store = _store()
    return store is not None and store._internal_kv_get(ASKED) is not None


def deaf() -> None:
    """Say that nobody looks any more."""
    if store := _store():
        store._internal_kv_del(LISTENS)


def wrap_init(ray: Any) -> None:
    """Let the driver's handler be set once Ray's own is."""
    import wrapt

    if not isinstance(ray.init, wrapt.FunctionWrapper):
        wrapt.wrap_function_wrapper(ray, "init", _after_init)


def _after_init(wrapped: Any, _: Any, arguments: Any, named: Any) -> Any:
    """Ray's `init`, which sets a handler of its own in the driver; ours comes before it."""
    found = wrapped(*arguments, **named)
    if threading.current_thread() is threading.main_thread():
        _handle()
    return found


def _handle() -> None:
    before: Any = signal.getsignal(signal.SIGTERM)
    if getattr(before, "is_l2t", False):
        return

    def end(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, before)  # the second time
        if not _ask():
            before(number, frame) if callable(before) else sys.exit(number)

    end.is_l2t = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, end)


def _ask() -> bool:
    """Ask the trainer to end; whether there is one that listens."""
    try:
        store = _store()
        if store is None or store._internal_kv_get(LISTENS) is None:
            return False
        store._internal_kv_put(ASKED, b"1")
    except Exception as error:  # Ray's own end
        print(
            f"l2t_verl: SIGTERM: the trainer cannot be asked ({type(error).__name__}: {error})", file=sys.stderr, flush=True
        )
        return False
    print(
        "l2t_verl: SIGTERM: the run ends with a checkpoint after this step; a second one ends it at once",
        file=sys.stderr,
        flush=True,
    )
    return True


def _store() -> Any:
    """What all processes of the cluster share; None where there is no cluster."""
    from ray.experimental import internal_kv

    return internal_kv if internal_kv._internal_kv_initialized() else None
