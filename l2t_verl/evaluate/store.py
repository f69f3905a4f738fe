"""Samples on disk: one line of JSON each, whole or not there, whatever kills the writer."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


class StoreError(RuntimeError):
    """Samples that cannot be written or read, with the file and the remedy."""


@dataclass(frozen=True)
class Sample:
    """One response to one question.

    Attributes:
        benchmark: its name.
        question: the question's id there.
        index: of the sample among those of the question.
        budget: tokens of thought after which the answer was forced; 0 for a whole response.
        response: the text; of a forced answer what follows the thought.
        finish: `stop`, or `length` where the limit cut it off.
        tokens: of the response, thought and answer; of a forced answer the thought that was kept counts too.
        thinking_tokens: of the thought, with the mark that closes it.
        score: 1 if the answer is right, else 0.
        grading: `ok`, or why there is no grade (`unparsable`, `timeout`, `error`).
        answer: what maj@k counts: the answer in a form that equal answers share; None where there is none.
    """

    benchmark: str
    question: str
    index: int
    budget: int
    response: str
    finish: str
    tokens: int
    thinking_tokens: int
    score: float
    grading: str
    answer: str | None

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What makes it the one sample that it is."""
        return self.benchmark, self.question, self.index, self.budget


class Store:
    """The samples of a run, in one file that only grows.

    A line that a crash tore is cut off when the file is opened; what it held is sampled again.

    Args:
        file: of the samples; made if it is not there.

    Raises:
        StoreError: a line in the middle is no sample.
    """

    def __init__(self, file: Path):
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self.samples = {sample.key: sample for sample in self._read()}

    def add(self, samples: Sequence[Sample]) -> None:
        """Append samples and see them on the disk; those that are there already are left as they are.

        Raises:
            StoreError: the disk is full, or the file cannot be written.
        """
        new = {sample.key: sample for sample in samples if sample.key not in self.samples}
        text = _lines(new.values())
        size = self.file.stat().st_size if self.file.exists() else 0
        try:
            with open(self.file, "ab") as file:
                file.write(text.encode("utf-8", "surrogatepass"))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if self.file.exists():
                os.truncate(self.file, size)
            raise StoreError(
                f"{self.file} cannot be written: {error}; make room and start the same command again"
            ) from error
        self.samples |= new

    def arrange(self, batches: Mapping[tuple[str, str, int, int], int]) -> None:
        """Bring the file into the order of the batches, each batch as it is, where it is not; whole or not at all.

        Args:
            batches: the number of each sample's batch, by its key.

        Raises:
            StoreError: the disk is full, or the file cannot be written.
        """
        ordered = sorted(self.samples.values(), key=lambda sample: batches.get(sample.key, len(batches)))
        if ordered != list(self.samples.values()):
            write_whole(self.file, _lines(ordered))
            self.samples = {sample.key: sample for sample in ordered}

    def _read(self) -> Iterator[Sample]:
        if not self.file.exists():
            return
        data = self.file.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self.file, whole)
        for number, line in enumerate(data[:whole].decode("utf-8", "surrogatepass").split("\n")[:-1], 1):
            try:
                yield Sample(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise StoreError(f"{self.file}, line {number} is no sample ({error}); take another --out") from error


def _lines(samples: Iterable[Sample]) -> str:
    return "".join(json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in samples)


def write_whole(file: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        StoreError: the disk is full, or the file cannot be written.
    """
    partial = file.with_name(f".{file.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="surrogatepass")
        os.replace(partial, file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"{file} cannot be written: {error}; make room and start the same command again") from error


def without_nan(value: Any) -> Any:
    """The same with None for what is not a number, which JSON has no word for.

    Example:
        >>> without_nan({"interval": [math.nan, 1.0]})
        {'interval': [None, 1.0]}
    """
    if isinstance(value, dict):
        return {key: without_nan(of) for key, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(of) for of in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each setting that is not what it was.

    Example:
        >>> differing({"samples": 4, "seed": 0}, {"samples": 8, "seed": 0})
        ['samples: 4 there, 8 now']
    """
    names = [name for name in {**now, **before} if now.get(name) != before.get(name)]
    return [f"{name}: {before.get(name)} there, {now.get(name)} now" for name in names]


def check_settings(file: Path, settings: dict[str, Any]) -> None:
    """Keep the settings of a run beside its samples, and refuse to go on with others.

    Raises:
        StoreError: the samples there were made with other settings, or of another model; with what differs.
    """
    if not file.exists():
        write_whole(file, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
        return
    try:
        before = json.loads(file.read_text())
    except ValueError as error:
        raise StoreError(f"{file} does not parse ({error}); take another --out") from error
    if lines := differing(before, settings):
        raise StoreError(
            f"{file.parent} holds samples of another evaluation; take another --out, or the settings of that one:\n"
            + "\n".join(f"  {line}" for line in lines)
        )
