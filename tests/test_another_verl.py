"""`VERL=folder bash tests/run.sh tests/test_contracts.py`: on a copy of verl in which two symbols have moved."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import verl
from stack import of_cpu_stack

ROOT = Path(__file__).parent.parent


def contracts(folder: Path, *words: str) -> subprocess.CompletedProcess:
    variables = os.environ | {"VERL": str(folder), "VENV": sys.prefix, "WORKERS": "0"}
    line = ["bash", "tests/run.sh", "tests/test_contracts.py", *words]
    return subprocess.run(line, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300, check=False)


@of_cpu_stack
def test_each_symbol_that_moved_is_named_with_its_user_and_where_it_may_be_now(tmp_path):
    """A function has another name in all of verl, another one lies in another file; verl itself is whole."""
    installed = Path(verl.__file__).parent
    shutil.copytree(installed, tmp_path / "verl")  # with what is compiled of it
    for file in (tmp_path / "verl").rglob("*.py"):
        text = file.read_text()
        moved = re.sub(r"\bresponse_from_nested\b", "response_of_nested", text)
        moved = moved.replace("from verl.utils.debug import marked_timer", "from verl.utils.profiler import marked_timer")
        if file == tmp_path / "verl" / "utils" / "debug" / "__init__.py":
            moved += "\ndel marked_timer\n"
        if moved != text:
            file.write_text(moved)
    done = contracts(tmp_path, "-k", "test_imported")
    assert done.returncode == 1, done.stdout + done.stderr
    failed = re.findall(r"^FAILED tests/test_contracts.py::test_imported\[([\w.:]+)\]", done.stdout, re.MULTILINE)
    assert failed == ["verl.utils.debug:marked_timer", "verl.workers.utils.padding:response_from_nested"]
    # where CI is set, pytest prints the whole messages once more in its summary
    first, second = re.findall(r"^(?!FAILED)\S.* is gone, .*$", done.stdout, re.MULTILINE)
    assert first.startswith("verl.utils.debug:marked_timer is gone, and l2t_verl/plugin/driver/trainer.py import it; ")
    assert "; marked_timer is in " in first
    assert "utils/profiler/performance.py" in first
    assert second.endswith(f"; nothing in {tmp_path / 'verl'} has its name")


@of_cpu_stack
def test_a_folder_without_verl_is_refused(tmp_path):
    done = contracts(tmp_path)
    assert done.returncode == 2
    assert f"VERL={tmp_path} is no checkout of verl" in done.stderr
