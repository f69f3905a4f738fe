# error: PermissionError
import os
import subprocess
import time

try:
    subprocess.Popen(["/bin/sleep", "1000"])
except OSError:
    pass
else:
    os._exit(0)
if os.fork() == 0:
    os.setsid()
    os.closerange(0, 64)
    time.sleep(1000)


def f(x):
    return 42
