"""The metrics of the steps before a restart: verl's logger empties its file at each start.

Set aside before it does, they are given back once it has: the file then holds each step once, as that of a run that was
never stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from l2t_verl.files import write_whole


def file_of_metrics(settings: Any) -> Path | None:
    """The file that verl's logger will write; None if it is not asked to.

    Args:
        settings: verl's node `trainer`.
    """
    loggers = settings.get("logger") or []
    if "file" not in ([loggers] if isinstance(loggers, str) else loggers):
        return None
    if named := os.environ.get("VERL_FILE_LOGGER_PATH"):
        return Path(named)
    root = Path(os.path.expanduser(os.environ.get("VERL_FILE_LOGGER_ROOT", ".")))
    return root / settings.project_name / f"{settings.experiment_name}.jsonl"


class WholeRows:
    """A file of verl's logger, which a full disk cuts short without a word: what is not taken is written again.

    Args:
        file: open without a buffer.
    """

    def __init__(self, file: Any):
        self.file = file

    def write(self, rows: bytes) -> None:
        """Write all of it.

        Raises:
            OSError: what came after its first part was not taken; with the file's name.
        """
        rest = memoryview(rows)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            raise OSError(error.errno, f"metrics: {error.strerror}", self.file.name) from error

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def set_aside(file: Path, step: int) -> None:
    """Keep the rows up to a step, that from which training goes on, beside the file that verl is about to empty.

    Rows of later steps are done again. What an earlier start has set aside and not given back is kept, too.

    Args:
        file: of verl's logger.
        step: the last one that counts.
    """
    kept = list(dict.fromkeys(row for old in (_aside(file), file) for row in _rows(old, step)))
    if kept:
        write_whole(_aside(file), "".join(f"{row}\n" for row in kept))


def give_back(file: Path, write: Callable[[bytes], Any]) -> None:
    """Write what was set aside into the new file.

    Args:
        file: of verl's logger.
        write: appends to it.
    """
    aside = _aside(file)
    if aside.exists():
        write(aside.read_bytes())
        aside.unlink()


def _aside(file: Path) -> Path:
    return file.with_name(f".{file.name}.kept")


def _rows(file: Path, step: int) -> Iterable[str]:
    """The lines of a file of metrics up to a step; one that is half written, as after a kill, is none."""
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n") if file.exists() else []
    for line in lines:
        try:
            if json.loads(line)["step"] <= step:
                yield line
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
