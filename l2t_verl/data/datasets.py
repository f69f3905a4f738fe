"""The data sets that recipes train on and that benchmarks are: where each is, and what of it is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from l2t_verl.data.code import code_problem_of
from l2t_verl.data.problems import Problem, column, problem_of
from l2t_verl.data.rows import OF_ANOTHER_FORM, DataError, Row, check_rows, file_rows, hub_rows
from l2t_verl.files import did_you_mean


@dataclass(frozen=True)
class Dataset:
    """Where a data set is on the hub, and what of it is taken.

    Attributes:
        repository: on the hub.
        split: of it.
        configuration: of it, where it has several.
        keep: which rows.
        validation: benchmarks that are looked at during training.
        sample: how many problems are drawn, by a seed; None for all.
        note: what a reader of the summary should know.
        task: what is asked for; benchmarks of the same task are kept out of a training set.
    """

    repository: str
    split: str = "train"
    configuration: str | None = None
    keep: Callable[[Row], bool] | None = None
    validation: tuple[str, ...] = ()
    sample: int | None = None
    note: str = ""
    task: Literal["math", "code"] = "math"


def _before_2024(row: Row) -> bool:
    return int(column(row, "Year", "year")) < 2024


def _mbpp(first: int, last: int) -> Callable[[Row], bool]:
    """Rows of one of MBPP's splits, which are ranges of its numbers: its file holds all of them."""
    return lambda row: first <= int(column(row, "task_id")) <= last


SMALL = ("aime24", "aime25", "amc23")
TRAINING = {
    "aime_919": Dataset(
        "di-zhang-fdu/AIME_1983_2024",
        keep=_before_2024,
        validation=SMALL,
        note="the paper's 919 AIME problems: this list of 933 without its 14 of 2024. The paper says 1989-2023, but of "
        "those years there are 837; 919 is the count from 1983 on",
    ),
    "numina_math_4k": Dataset(
        "AI-MO/NuminaMath-CoT",
        validation=SMALL,
        sample=4000,
        note="a choice of ours by the seed: the paper does not say which 4,000",
    ),
    "deepscaler_40k": Dataset("agentica-org/DeepScaleR-Preview-Dataset", validation=SMALL),
    "gsm8k": Dataset("openai/gsm8k", configuration="main", validation=("gsm8k_test",)),
    "mbpp": Dataset(
        "google-research-datasets/mbpp", configuration="full", keep=_mbpp(601, 974), validation=("humaneval",), task="code"
    ),
}
BENCHMARKS = {
    "aime24": Dataset("HuggingFaceH4/aime_2024"),
    "aime25": Dataset("math-ai/aime25", "test"),
    "amc23": Dataset("math-ai/amc23", "test"),
    "math500": Dataset("HuggingFaceH4/MATH-500", "test"),
    "minerva_math": Dataset("math-ai/minervamath", "test"),
    "olympiad_bench": Dataset("math-ai/olympiadbench", "test"),
    "omni_math": Dataset("KbsdJames/Omni-MATH", "test"),
    "gsm8k_test": Dataset("openai/gsm8k", "test", configuration="main"),
    "humaneval": Dataset("openai/openai_humaneval", "test", task="code"),
    "mbpp_test": Dataset("google-research-datasets/mbpp", "test", configuration="full", keep=_mbpp(11, 510), task="code"),
}
ALL = TRAINING | BENCHMARKS


def named(name: str, among: Mapping[str, Dataset]) -> Dataset:
    """A data set by its name.

    Raises:
        DataError: it is none of these; with the one that is probably meant.
    """
    if name not in among:
        raise DataError(f"there is no data set {name!r} here. {did_you_mean(name, among)}")
    return among[name]


def load(name: str, source: Path | None = None) -> list[Problem]:
    """The problems of a data set, in its order: from the hub, or from files in its published form.

    Args:
        name: one of `TRAINING` or `BENCHMARKS`.
        source: a file or folder of JSON, JSONL, CSV or parquet; None for the hub.

    Raises:
        DataError: unknown name, no such file, no network, a missing column, no rows; each with the remedy.
    """
    dataset = named(name, ALL)
    rows = hub_rows(dataset.repository, dataset.configuration, dataset.split) if source is None else file_rows(source)
    where = source if source is not None else dataset.repository
    try:
        check_rows(rows)
        kept = [row for row in rows if dataset.keep is None or dataset.keep(row)]
        read = code_problem_of if dataset.task == "code" else problem_of
        found = [read(row, position) for position, row in enumerate(kept)]
    except OF_ANOTHER_FORM as error:
        raise DataError(f"{where} is not in the form of {name} ({dataset.repository}): {error}") from error
    if not found:
        raise DataError(f"{where} has no row for {name}: all {len(rows)} were left out")
    return found
