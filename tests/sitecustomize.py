"""Read by every process that a test starts: an import makes a million objects and no garbage, and needs no collector."""

import gc

# a tenth of the time of importing verl and vLLM, which each of a cluster's processes does
gc.set_threshold(100_000, 50, 100)
