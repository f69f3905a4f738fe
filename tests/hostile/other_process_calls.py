# error: none of clone, clone3, fork, vfork gives a process
import ctypes
import signal

libc = ctypes.CDLL(None, use_errno=True)
started = [libc.syscall(56, signal.SIGCHLD, 0, 0, 0, 0), libc.syscall(57), libc.syscall(58), libc.syscall(435, 0, 0)]


def f(x):
    raise RuntimeError(started) if started == [-1] * 4 else SystemExit
