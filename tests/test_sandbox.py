"""Programs that do their worst: each verdict is right, soon, and nothing is left of them."""

import ast
import os
import re
import time
from pathlib import Path

import psutil
import pytest

from l2t_verl import sandbox
from l2t_verl.sandbox import Limits, Verdict, run_tests
from l2t_verl.sandbox.inside import values

LIMITS = Limits(seconds=3.0, memory_mib=256, disk_mib=8, answer_mib=1)
TESTS = "assert f(20) == 42"
HONEST = "def f(x):\n    return x + 22"
# their first line: which verdicts are right; their second may have tests of their own
HOSTILE = sorted((Path(__file__).parent / "hostile").glob("*.py.txt"))
SECRET = "marked-secret"  # what a program that reaches what is not its own would find
LOOKS = """
import gc, os, sys
def f(x):
    seen = [open(path).read() for path in ("/proc/self/cmdline", "/proc/self/environ", "/proc/1/cmdline")]
    frame = sys._getframe()
    while frame:
        seen.append(repr(frame.f_locals))
        frame = frame.f_back
    seen += [repr(held)[:1000] for held in gc.get_objects() if isinstance(held, (dict, list, str))]
    paths = [os.path.exists(path) for path in ("/etc/passwd", "{here}")]
    return ["the_exp" "ected" in "".join(seen), *paths, "PATH" in os.environ]
"""
WRITES = """
def f(places):
    written = []
    for place in places:
        try:
            open(place, "w").write("x")
            written.append(place)
        except OSError:
            pass
    return written
"""
CALLS_OUT = """
import socket
def f(x):
    reached = []
    for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            try:
                speaking = socket.socket(family, kind)
                speaking.settimeout(0.2)
                speaking.connect((address, 53))
                reached.append(address)
            except OSError:
                pass
    return reached
"""


def verdict(program: str, tests: str = TESTS) -> Verdict:
    since, before = time.monotonic(), family()
    found = run_tests(program, tests, limits=LIMITS)
    print(f"{found} after {time.monotonic() - since:.2f} s")
    assert time.monotonic() - since < LIMITS.seconds + 2
    end = time.monotonic() + 3
    while left := family() - before:
        assert time.monotonic() < end, f"processes are left behind: {left}"
    return found


def family() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE}


def test_right_and_wrong():
    assert verdict(HONEST) == Verdict(True)
    assert verdict("def f(x):\n    return x").reason == "wrong"
    assert verdict("def f(x):\n    return 1 / 0").detail.startswith("ZeroDivisionError")
    for program in ("def f(x:", "(" * 10000, "\x00"):
        assert verdict(program).reason == "syntax"
    for program in ("raise SystemExit(0)", "import sys\nsys.exit()", "import nothing_of_this_name", ""):
        assert verdict(program).reason == "error"


@pytest.mark.parametrize("file", HOSTILE, ids=lambda file: file.name.split(".")[0])
def test_hostile_programs_fail_and_end(file, monkeypatch, tmp_path):
    """A program that gets what it is after returns the right answer, or passes as if it had."""
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    (tmp_path / "open").write_text(SECRET)
    program = file.read_text()
    own = re.match(r".*\n# tests: (.*)\n", program)
    before = set(Path("/tmp").iterdir())
    with open(tmp_path / "open") as inheritable:
        os.set_inheritable(inheritable.fileno(), True)
        found = verdict(program, own[1] if own else TESTS)
    assert found.reason in re.match(r"# ([a-z ]+)", program)[1].split()
    assert {path.name for path in set(Path("/tmp").iterdir()) - before} & {"mark", "found", "tests.py"} == set()


def test_a_function_of_a_builtin_s_name_is_tested_where_the_tests_are_for_it():
    assert verdict("def sum(a, b):\n    return a + b", "assert sum(20, 22) == 42").passed
    assert run_tests("def max(x):\n    return x + 22", "def check(candidate):\n    assert candidate(20) == 42", "max").passed
    assert verdict("def sum(x):\n    return 42\ndef f(x):\n    return [x]", "assert sum(f(20)) == 42").reason == "wrong"


def test_it_sees_nobody_else():
    program = "import os\ndef f(x):\n    return [name for name in os.listdir('/proc') if name.isdigit()]"
    assert verdict(program, "assert len(f(1)) == 2, f(1)") == Verdict(True)  # itself, and bubblewrap's first process


def test_it_writes_nowhere_else(tmp_path):
    here = Path(sandbox.__file__).parent
    places = [f"{folder}/mark" for folder in (tmp_path, here, "", "/usr", "/inside", "/proc", "/dev", "/dev/shm", "/sys")]
    assert verdict(WRITES, f"assert f({places}) == [], f({places})") == Verdict(True)
    assert not any(Path(place).exists() for place in places)
    assert verdict(WRITES, "assert f(['/tmp/mark']) == ['/tmp/mark']") == Verdict(True)
    assert not Path("/tmp/mark").exists()


def test_the_kernel_s_settings_are_out_of_reach():
    program = """
import os
def f(x):
    opened = []
    for folder, _, files in os.walk("/proc/sys"):
        for path in (os.path.join(folder, file) for file in files):
            try:
                os.close(os.open(path, os.O_WRONLY))
                opened.append(path)
            except OSError:
                pass
    return opened
"""
    assert verdict(program, "assert f(1) == [], f(1)") == Verdict(True)


def test_it_reads_neither_the_tests_nor_this_machine_s_files():
    program = LOOKS.replace("{here}", str(Path(__file__).resolve()))
    assert verdict(program, "the_expected = [False] * 4\nassert f(1) == the_expected, f(1)") == Verdict(True)


def test_it_has_no_network():
    assert verdict(CALLS_OUT, "assert f(1) == [], f(1)") == Verdict(True)


def test_a_check_of_the_tests_own_is_called_with_the_entry():
    tests = "def check(candidate):\n    assert candidate(20) == 42"
    assert run_tests(HONEST, tests, "f").passed
    assert run_tests(HONEST, tests, "g").detail == "the program defines no g"


def test_tests_see_exceptions_as_they_were_raised():
    tests = "try:\n    f(-1)\n    assert False\nexcept ValueError as error:\n    assert str(error) == 'negative'"
    assert verdict("def f(x):\n    raise ValueError('negative')", tests).passed


def test_values_come_back_as_they_were():
    held = [
        None,
        True,
        -1,
        10**5000,
        1.5,
        float("inf"),
        "é\ud800\x00",
        b"\x00",
        1j,
        range(3),
        (1, [2]),
        {1: {2}},
        frozenset(),
    ]
    assert values.loads(values.dumps(held)) == held
    assert values.loads(values.dumps({(1, 2): 3})) == {(1, 2): 3}
    with pytest.raises(TypeError, match="does not leave"):
        values.dumps(object())


def test_a_machine_without_namespaces_is_told_so_and_nothing_runs(monkeypatch, tmp_path):
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    sandbox.require.cache_clear()
    with pytest.raises(sandbox.SandboxError, match=r"No permissions(.|\n)*seccomp=unconfined"):
        run_tests(HONEST, TESTS)
    sandbox.require.cache_clear()


def test_what_is_read_inside_needs_nothing_from_outside():
    """The interpreter in the sandbox has neither this package nor any other."""
    import sys

    for file in (Path(sandbox.__file__).parent / "inside").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert set(names) <= sys.stdlib_module_names | {"values"}
