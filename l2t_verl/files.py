"""What commands, recipes and the trainer share: files whole or not at all, files of lines, what refusals say of names."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar


class FileError(RuntimeError):
    """A file that cannot be written or read; the message names it and the remedy."""


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Write a file whole or not at all: the block writes to a path beside it, which takes its place if the block succeeds.

    Args:
        file: the file to be made or replaced; its folder has to exist. The path beside it has the same ending.

    Yields:
        The path to write to.

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
    """Write a text as UTF-8, whole or not at all; lone surrogates, which a response may hold, are kept.

    Args:
        file: to be made or replaced; its folder has to exist.
        text: all of its content.

    Raises:
        FileError: the disk is full, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "page.md"
        >>> write_whole(file, "# J")
        >>> file.read_text()
        '# J'
    """
    with whole(file) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogatepass")


def as_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    r"""Write rows as JSON, one line each.

    Example:
        >>> as_lines([{"step": 1}, {"step": 2}])
        '{"step": 1}\n{"step": 2}\n'
    """
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def append_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows as JSON, one line each, and wait until they are on the disk; if the disk is full, none of them is added.

    Args:
        file: is made if it does not exist; its folder has to.
        rows: what can be written as JSON.

    Raises:
        FileError: the disk is full, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "samples.jsonl"
        >>> append_lines(file, [{"J": 0.5}])
        >>> list(read_lines(file))
        [(1, '{"J": 0.5}')]
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
    """Read the lines of a file that `append_lines` writes.

    A last line that a crash has cut short is removed from the file, so that it can be written again.

    Args:
        file: to read; if it does not exist, there are no lines.

    Yields:
        Number, from 1 on, and text of each line.
    """
    if not file.exists():
        return
    data = file.read_bytes()
    complete = data.rfind(b"\n") + 1
    if complete < len(data):
        os.truncate(file, complete)
    yield from enumerate(data[:complete].decode("utf-8", "surrogatepass").split("\n")[:-1], 1)


class Keyed(Protocol):
    """What has a key of its own."""

    @property
    def key(self) -> str:
        """The same for the same thing, whenever it is made."""
        ...


Item = TypeVar("Item", bound=Keyed)


class Kept(Generic[Item]):
    """Dataclasses in one file that only grows, a line of JSON each; what a crash tore off is made again.

    Args:
        file: made with its folder if it is not there.
        of_json: makes one of a line's object.
        what: they are, as the message calls one.

    Raises:
        FileError: a line in the middle is none.
    """

    def __init__(self, file: Path, of_json: Callable[[Mapping[str, Any]], Item], what: str):
        self.file, self._of_json, self._what = file, of_json, what
        file.parent.mkdir(parents=True, exist_ok=True)
        self.by_key = {item.key: item for item in self._read()}

    def add(self, item: Item) -> None:
        """Append one and see it on the disk.

        Raises:
            FileError: the file cannot be written.
        """
        row: Any = item  # a dataclass, which a protocol cannot say
        append_lines(self.file, [asdict(row)])
        self.by_key[item.key] = item

    def _read(self) -> Iterator[Item]:
        for number, line in read_lines(self.file):
            try:
                yield self._of_json(json.loads(line))
            except (ValueError, TypeError, KeyError) as error:
                raise FileError(f"{self.file}, line {number} is no {self._what} ({error}); take another --out") from error


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """List the settings that are not what they were.

    Args:
        before: settings of a run that is there.
        now: settings of the run that is to be started.

    Returns:
        A line for each difference, with both values.

    Example:
        >>> differing({"samples": 4, "seed": 0}, {"samples": 8, "seed": 0})
        ['samples: 4 there, 8 now']
    """
    names = [name for name in {**now, **before} if now.get(name) != before.get(name)]
    return [f"{name}: {before.get(name)} there, {now.get(name)} now" for name in names]


def check_settings(file: Path, settings: Mapping[str, Any]) -> None:
    """Keep the settings of a run beside its results, and refuse to continue it with others.

    Args:
        file: of the settings; written if it does not exist.
        settings: what can be written as JSON.

    Raises:
        FileError: the results there were made with other settings, which the message lists; or the file does not parse.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "settings.json"
        >>> check_settings(file, {"samples": 4})
        >>> check_settings(file, {"samples": 4})
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
    """Say which name may have been meant, and which are known, for the end of an error message.

    Args:
        name: unknown.
        known: names that there are.

    Example:
        >>> did_you_mean("shapd", ["paper", "shaped"])
        'Did you mean shaped? Known: paper, shaped'
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return "".join(f"Did you mean {one}? " for one in close) + f"Known: {', '.join(known)}"
