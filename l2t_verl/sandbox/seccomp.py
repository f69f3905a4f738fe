"""The system calls that a sandboxed process may not make.

Those that start another process: the kernel's own limit (RLIMIT_NPROC) does not hold for root, and root is who trainers in
containers mostly are. Those that get memory which no limit counts. And those that attacks on the kernel need and programs do
not: new namespaces and mounts, tracing, kernel programs, keys.
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
MACHINES = {"x86_64": (0xC000003E, 56), "aarch64": (0xC00000B7, 220)}  # architecture, clone
REFUSED = {  # numbers on x86_64 and aarch64
    "fork": (57, None),
    "vfork": (58, None),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}


def one_process_filter() -> bytes:
    """A seccomp filter as bubblewrap reads it: threads may be started, processes not, and nothing in `REFUSED` is done.

    clone3 hides its flags from filters, so it is answered as by a kernel that lacks it; C libraries then take clone.

    Raises:
        NotImplementedError: the numbers of this machine's system calls are not known here.

    Example:
        >>> len(one_process_filter()) % 8
        0
    """
    if platform.machine() not in MACHINES:
        raise NotImplementedError(f"no filter for {platform.machine()}; known are {', '.join(MACHINES)}")
    architecture, clone = MACHINES[platform.machine()]
    refused = [numbers[list(MACHINES).index(platform.machine())] for numbers in REFUSED.values()]
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
    for number in filter(None, refused):
        lines += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE | EPERM)]
    lines += [
        (JUMP_EQUAL, 0, 3, clone),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (JUMP_ANY_BIT, 1, 0, CLONE_THREAD),
        (RETURN, 0, 0, REFUSE | EPERM),
        (RETURN, 0, 0, ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
