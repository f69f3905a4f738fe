"""Read by every process that a test starts, before anything else."""

import gc
import os
import sys

# An import makes a million objects and no garbage: a tenth of the time of importing verl and vLLM.
gc.set_threshold(100_000, 50, 100)

if os.environ.get("L2T_TESTS_FORKS"):
    words = sys.orig_argv[1:]
    is_worker = any(word.endswith("/ray/_private/workers/default_worker.py") for word in words[:1])
    is_of_ray = is_worker and "--runtime-env-hash=0" not in words  # those are started in advance, and import nothing
    is_a_dry_run = words[:2] == ["-m", "recipes.launch"] and "--dry-run" in words
    is_of_xdist = words[:2] == ["-u", "-c"] and words[2].startswith("import sys;exec(eval(sys.stdin")
    if is_of_ray or is_a_dry_run or is_of_xdist:
        import forkserver

        forkserver.leave_to_a_fork()
