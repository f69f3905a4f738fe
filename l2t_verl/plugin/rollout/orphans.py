"""vLLM's engine and its workers end when the process that started them does.

An engine whose server is killed, as all are when Ray's store dies, would stay for ever and keep its GPU's memory.
"""

from __future__ import annotations

import multiprocessing
import os
import threading

NAME = "l2t-end-with-parent"  # of the thread


def end_with_parent() -> None:
    """Entry point of vLLM's plugin group, which runs in each of vLLM's processes: end this one when its parent is gone.

    Only what `multiprocessing` has started has a parent to end with; a server that a shell has started may outlive it.
    """
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == NAME for thread in threading.enumerate()):
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name=NAME, daemon=True).start()
