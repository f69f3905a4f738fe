# timeout: none of its forks succeeds
import contextlib
import os

while True:
    with contextlib.suppress(OSError):
        os.fork()
