"""Finished evaluations, read: of runs, paired by question, and the paper's printed ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from l2t_verl.evaluate.run import by_question
from l2t_verl.evaluate.store import Sample, Store
from l2t_verl.files import FileError, did_you_mean

PUBLISHED = Path(__file__).parent / "published.json"


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one run, as its folder has it.

    Attributes:
        name: of the folder; the whole path where two folders have one name.
        settings: of the run; empty where it does not say.
        found: its results.
        samples: its samples.
    """

    name: str
    settings: dict[str, Any]
    found: dict[str, Any]
    samples: dict[Any, Sample]


def read(folder: Path) -> Evaluation:
    """Read a run.

    Raises:
        FileError: it is not there, or not finished.
    """
    file = folder / "results.json"
    if not file.exists():
        raise FileError(f"{file} is not there: name the folder of an evaluation, and let it finish first")
    written = json.loads(file.read_text())
    return Evaluation(folder.name, written.get("settings", {}), written["results"], Store(folder / "samples.jsonl").samples)


def paired(one: Evaluation, other: Evaluation, benchmark: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Accuracy and tokens of each question that two evaluations share.

    Args:
        one: an evaluation.
        other: another.
        benchmark: name of the benchmark that the questions are of.

    Returns:
        Accuracies of both in [0, 1], then tokens of both, each [Q], means over samples.

    Raises:
        FileError: they share no question.
    """
    first, second = (dict(by_question(run.samples, benchmark)) for run in (one, other))
    shared = [question for question in first if question in second]
    if not shared:
        raise FileError(f"{one.name} and {other.name} share no question of {benchmark}")
    mean = lambda samples, what: float(np.mean([getattr(sample, what) for sample in samples]))  # noqa: E731
    columns = [[mean(of[question], what) for question in shared] for what in ("score", "tokens") for of in (first, second)]
    a, b, tokens_a, tokens_b = map(np.array, columns)
    return a, b, tokens_a, tokens_b


def published_of(model: str) -> dict[str, Any]:
    """The paper's numbers for a model.

    Raises:
        ValueError: the paper has none; the message lists the models that it has.
    """
    everything = json.loads(PUBLISHED.read_text())
    if model not in everything["pass@1"]:
        raise ValueError(f"the paper prints nothing of {model!r}. {did_you_mean(model, everything['pass@1'])}")
    return everything | {"pass@1": everything["pass@1"][model], "tokens": everything["tokens"][model]}


def published_numbers(published: Mapping[str, Any], benchmark: str) -> dict[str, tuple[float, float | None]]:
    """The paper's rows for one benchmark: pass@1 in %, and tokens relative to the model before training, if read off."""
    (column,) = [name for name, ours in published["columns"].items() if ours == benchmark] or [None]
    (tokens,) = [name for name, ours in published["token columns"].items() if benchmark in ours] or [None]
    if column is None:
        return {}
    ratio = lambda arm: 1.0 if arm == "base" else published["tokens"].get(arm, {}).get(tokens)  # noqa: E731
    return {arm: (row[column], ratio(arm)) for arm, row in published["pass@1"].items()}
