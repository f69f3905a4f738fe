"""Rows of a data set: from the hub, or from files that somebody has put somewhere."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


class DataError(ValueError):
    """Data that cannot be used, with the file and the remedy."""


def hub_rows(repository: str, configuration: str | None, split: str) -> list[Row]:
    """A split of a data set on the hub.

    Raises:
        DataError: it cannot be had, with what to do instead.
    """
    from datasets import load_dataset

    try:
        return list(load_dataset(repository, configuration, split=split))
    except Exception as error:  # the hub's client raises many kinds, from requests' to its own
        raise DataError(
            f"{repository} (split {split}) cannot be had from the hub: {type(error).__name__}: {str(error)[:200]}\n"
            f"  fetch it where there is a network (huggingface-cli download --repo-type dataset {repository}) and name the "
            "file or folder"
        ) from error


def file_rows(path: Path) -> list[Row]:
    """All rows of a JSON, JSONL, CSV or parquet file (gzipped or not), or of all such files of a folder in their order.

    Raises:
        DataError: nothing there, a kind of file that is not read, or text that does not parse, with its line.
    """
    if not path.exists():
        raise DataError(f"{path} is not there")
    files = sorted(file for file in path.rglob("*") if _kind(file)) if path.is_dir() else [path]
    rows = [row for file in files for row in _read(file)]
    if not rows:
        raise DataError(f"{path} holds no rows; files that are read end in {', '.join(READERS)}, with .gz or without")
    return rows


# What reading a row of another form may raise
OF_ANOTHER_FORM = (TypeError, ValueError, AttributeError, OverflowError, RecursionError)


def check_rows(rows: Sequence[Any]) -> None:
    """See that rows are objects.

    Raises:
        ValueError: one is not, with its number.

    Example:
        >>> check_rows([{"problem": "1?"}, {"problem": "2?"}])
    """
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise ValueError(f"row {number} is a {type(row).__name__}, and no object with columns")


def sha256(path: Path) -> dict[str, str]:
    """The hashes of a file, or of a folder's files that `file_rows` reads, by name."""
    files = sorted(file for file in path.rglob("*") if _kind(file)) if path.is_dir() else [path]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _kind(file: Path) -> str | None:
    suffix = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    return suffix if suffix in READERS else None


def _read(file: Path) -> list[Row]:
    kind = _kind(file)
    if kind is None:
        raise DataError(f"{file} is no file of a kind that is read: {', '.join(READERS)}, with .gz or without")
    try:
        return list(READERS[kind](file))
    except (OSError, EOFError, ValueError, RecursionError, csv.Error, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}") from error


def _text(file: Path) -> str:
    data = file.read_bytes()
    return (gzip.decompress(data) if file.suffix == ".gz" else data).decode(
        "utf-8-sig"
    )  # spreadsheets begin with a byte order mark


def _json(file: Path) -> list[Row]:
    text = _text(file)
    if not text.lstrip().startswith("["):
        return list(_jsonl(file))
    return json.loads(text)


def _jsonl(file: Path) -> Iterator[Row]:
    for number, line in enumerate(_text(file).split("\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error}") from error


def _csv(file: Path) -> Iterator[Row]:
    return csv.DictReader(io.StringIO(_text(file), newline=""))  # no other separator than a line feed ends a row


def _parquet(file: Path) -> list[Row]:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(file).to_pylist()
    except pyarrow.ArrowException as error:  # not all of its kinds are ValueErrors
        raise ValueError(str(error)) from error


READERS = {".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
