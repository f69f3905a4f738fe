"""The system calls that a sandboxed process may not make: those that start another process.

The kernel's own limit (RLIMIT_NPROC) does not hold for root, and root is who trainers in containers mostly are.
"""

from __future__ import annotations

import platform
import struct

# From the kernel's uapi headers: bpf_common.h, seccomp.h, audit.h and each machine's unistd.h
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
EPERM, ENOSYS = 1, 38
CLONE_THREAD, CLONE3 = 0x00010000, 435
X32 = 0x40000000  # x86-64's other numbering starts here
MACHINES = {  # architecture, clone, and what else starts a process
    "x86_64": (0xC000003E, 56, (57, 58)),
    "aarch64": (0xC00000B7, 220, ()),
}


def one_process_filter() -> bytes:
    """A seccomp filter as bubblewrap reads it: threads may be started, processes not.

    clone3 hides its flags from filters, so it is answered as by a kernel that lacks it; C libraries then take clone.

    Raises:
        NotImplementedError: the numbers of this machine's system calls are not known here.

    Example:
        >>> len(one_process_filter()) % 8
        0
    """
    if platform.machine() not in MACHINES:
        raise NotImplementedError(f"no filter for {platform.machine()}; known are {', '.join(MACHINES)}")
    architecture, clone, others = MACHINES[platform.machine()]
    lines = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
        (JUMP_AT_LEAST, 0, 1, X32),
        (RETURN, 0, 0, KILL),
        (JUMP_EQUAL, 0, 1, CLONE3),
        (RETURN, 0, 0, REFUSE | ENOSYS),
    ]
    for number in others:
        lines += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE | EPERM)]
    lines += [
        (JUMP_EQUAL, 0, 3, clone),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (JUMP_ANY_BIT, 1, 0, CLONE_THREAD),
        (RETURN, 0, 0, REFUSE | EPERM),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
