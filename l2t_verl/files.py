"""What commands, recipes and the trainer share: files whole or not at all, files of lines, what refusals say of names."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class FileError(RuntimeError):
    """A file that cannot be written or read; the message names it and the remedy."""


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path beside a file to write to; the file appears, or is replaced, when all is written, else it stays as it was.

    Args:
        file: of what is to appear; its folder has to be there. The path to write to has the same ending.

    Raises:
        FileError: the disk is full, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "table.csv"
        >>> with whole(file) as partial:
        ...     _ = partial.write_text("step,J")
        >>> file.read_text(), list(file.parent.iterdir()) == [file]
        ('step,J', True)
    """
    partial = file.with_name(f".{file.stem}.partial{file.suffix}")
    try:
        yield partial
        os.replace(partial, file)
    except OSError as error:
        raise FileError(f"{file} cannot be written: {error}; make room and start the same command again") from error
    finally:
        partial.unlink(missing_ok=True)


def write_whole(file: Path, text: str) -> None:
    """Write a text, whole or not at all, as UTF-8; a lone surrogate of a response is kept as it is.

    Raises:
        FileError: the disk is full, or the file cannot be written.
    """
    with whole(file) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogatepass")


def as_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    r"""Rows as JSON, a line each.

    Example:
        >>> as_lines([{"step": 1}, {"step": 2}])
        '{"step": 1}\n{"step": 2}\n'
    """
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def append_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows as JSON, a line each, and see them on the disk: all of them, or none where the disk is full.

    Raises:
        FileError: the disk is full, or the file cannot be written.
    """
    size = file.stat().st_size if file.exists() else 0
    try:
        with open(file, "ab") as open_file:
            open_file.write(as_lines(rows).encode("utf-8", "surrogatepass"))
            open_file.flush()
            os.fsync(open_file.fileno())
    except OSError as error:
        if file.exists():
            os.truncate(file, size)
        raise FileError(f"{file} cannot be written: {error}; make room and start the same command again") from error


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line of a file that `append_lines` writes; nothing where it is not there.

    A line that a crash tore is cut off the file: what it held is made again.
    """
    if not file.exists():
        return
    data = file.read_bytes()
    complete = data.rfind(b"\n") + 1
    if complete < len(data):
        os.truncate(file, complete)
    yield from enumerate(data[:complete].decode("utf-8", "surrogatepass").split("\n")[:-1], 1)


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each setting that is not what it was.

    Example:
        >>> differing({"samples": 4, "seed": 0}, {"samples": 8, "seed": 0})
        ['samples: 4 there, 8 now']
    """
    names = [name for name in {**now, **before} if now.get(name) != before.get(name)]
    return [f"{name}: {before.get(name)} there, {now.get(name)} now" for name in names]


def check_settings(file: Path, settings: Mapping[str, Any]) -> None:
    """Keep the settings of a run beside its results, and refuse to go on with others.

    Raises:
        FileError: the results there were made with other settings, or of another model; with what differs.
    """
    if not file.exists():
        write_whole(file, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
        return
    try:
        before = json.loads(file.read_text())
    except ValueError as error:
        raise FileError(f"{file} does not parse ({error}); take another --out") from error
    if lines := differing(before, settings):
        raise FileError(
            f"{file.parent} holds results of other settings; take another --out, or those settings:\n"
            + "\n".join(f"  {line}" for line in lines)
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What a refusal says after a name that nothing has.

    Example:
        >>> did_you_mean("shapd", ["paper", "shaped"])
        'Did you mean shaped? Known: paper, shaped'
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return "".join(f"Did you mean {one}? " for one in close) + f"Known: {', '.join(known)}"
