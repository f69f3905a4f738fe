"""Read by every process that a test starts, before anything else."""

import gc
import os
import sys

# An import makes a million objects and no garbage: a tenth of the time of importing verl and vLLM.
gc.set_threshold(100_000, 50, 100)

if os.environ.get("L2T_TESTS_FORKS") and any("/ray/_private/workers/" in word for word in sys.orig_argv[1:2]):
    import forkserver

    forkserver.leave_to_a_fork()
