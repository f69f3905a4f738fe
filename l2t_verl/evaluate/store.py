"""Samples on disk: one line of JSON each, whole or not there, whatever kills the writer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from l2t_verl.files import FileError, append_lines, as_lines, read_lines, write_whole


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
        FileError: a line in the middle is no sample.
    """

    def __init__(self, file: Path):
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self.samples = {sample.key: sample for sample in self._read()}

    def add(self, samples: Sequence[Sample]) -> None:
        """Append samples and wait until they are on the disk; samples that are there already are left as they are.

        Raises:
            FileError: the disk is full, or the file cannot be written.
        """
        new = {sample.key: sample for sample in samples if sample.key not in self.samples}
        append_lines(self.file, map(asdict, new.values()))
        self.samples |= new

    def arrange(self, batches: Mapping[tuple[str, str, int, int], int]) -> None:
        """Sort the file by batch, if it is not sorted, keeping the order within each batch; whole or not at all.

        Args:
            batches: the number of each sample's batch, by its key.

        Raises:
            FileError: the disk is full, or the file cannot be written.
        """
        ordered = sorted(self.samples.values(), key=lambda sample: batches.get(sample.key, len(batches)))
        if ordered != list(self.samples.values()):
            write_whole(self.file, as_lines(map(asdict, ordered)))
            self.samples = {sample.key: sample for sample in ordered}

    def _read(self) -> Iterator[Sample]:
        for number, line in read_lines(self.file):
            try:
                yield Sample(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise FileError(f"{self.file}, line {number} is no sample ({error}); take another --out") from error


def without_nan(value: Any) -> Any:
    """Replace NaN by None, since JSON has no word for it.

    Example:
        >>> without_nan({"interval": [math.nan, 1.0]})
        {'interval': [None, 1.0]}
    """
    if isinstance(value, dict):
        return {key: without_nan(of) for key, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(of) for of in value]
    return None if isinstance(value, float) and math.isnan(value) else value
