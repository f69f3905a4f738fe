"""Recorded reasoning as it lies about: JSONL, JSON, parquet, verl's dumps, an evaluation's samples, a text."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2t_verl.data.problems import question_of
from l2t_verl.grading.truth import accepted_answers

# Where each thing stands, the first name that a row has counts; dots lead into objects
COLUMNS = {
    "problem": ("problem", "question", "input", "prompt"),
    "response": ("response", "output", "completion", "generation"),
    "answer": ("answer", "gts", "ground_truth", "reward_model.ground_truth"),
    "outcome": ("outcome", "score", "correct"),
}
KINDS = (".jsonl", ".json", ".parquet")
SAMPLE = {"benchmark", "question", "index", "budget", "response"}  # of l2t_verl.evaluate
# verl dumps prompts without special tokens: the roles of the chat template stay as bare words
TURNS = re.compile(r"(?:\A|\n)user\n(?P<problem>.*?)\n*assistant\n*(?:<think>\s*)?\Z", re.DOTALL)


class SourceError(ValueError):
    """A source that cannot be read at all, with the remedy."""


@dataclass(frozen=True)
class Skipped:
    """What is left out, and why.

    Attributes:
        place: file and line.
        reason: in words.
        is_fault: whether something is wrong with it.
    """

    place: str
    reason: str
    is_fault: bool = True


@dataclass(frozen=True)
class Record:
    """One recorded response.

    Attributes:
        place: file and line.
        problem: what was asked.
        messages: the same as a conversation, where it is recorded as one.
        response: what was written.
        answers: accepted answers, at least one.
        outcome: its grade, more than 0 for a right answer; None where it is not recorded.
        label: where it comes from in its run, as `step 3`.
        known: episodes and rewards that are recorded with it (a dump of L2T's, or an earlier inspection).
    """

    place: str
    problem: str
    messages: list[dict[str, str]] | None
    response: str
    answers: tuple[str, ...]
    outcome: float | None
    label: str = ""
    known: Mapping[str, Any] | None = None


def read(
    source: Path, columns: Mapping[str, str] | None = None, questions: Mapping[tuple[str, str], Any] | None = None
) -> Iterator[Record | Skipped]:
    """The responses of a file, or of all files of a folder (verl's dumps in the order of their steps).

    Args:
        source: a file that ends in one of `KINDS`, or a folder of such files.
        columns: where a thing of `COLUMNS` stands, for names that are not known; dots lead into objects.
        questions: problems of an evaluation's samples (`l2t_verl.data.Problem`) by benchmark and id.

    Raises:
        SourceError: there is nothing to read.
    """
    for place, row in _rows(source):
        if isinstance(row, Skipped):
            yield row
            continue
        try:
            found = _record(place, _with_problem(row, questions), columns or {})
        except ValueError as error:
            found = Skipped(place, str(error))
        except (TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            found = Skipped(place, f"it has another form than a response ({type(error).__name__}: {error})")
        if found is not None:
            yield found


def _rows(source: Path) -> Iterator[tuple[str, Any]]:
    if not source.exists():
        raise SourceError(f"{source} is not there")
    files = [source]
    if source.is_dir():
        files = sorted((file for file in source.iterdir() if file.suffix in KINDS), key=_order)
        samples = source / "samples.jsonl"  # an evaluation keeps its settings beside them
        files = [samples] if samples in files else files
    if not files or files[0].suffix not in KINDS:
        raise SourceError(f"{source}: nothing that ends in {', '.join(KINDS)}; convert it, or give a text by '-'")
    for file in files:
        yield from _lines(file) if file.suffix == ".jsonl" else _table(file)


def _order(file: Path) -> tuple[bool, int, str]:
    """Numbers by their value: 2.jsonl comes before 10.jsonl."""
    is_number = file.stem.isascii() and file.stem.isdigit()
    return (not is_number, int(file.stem) if is_number else 0, file.name)


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{file.name}:{number}"
            if not line.strip():
                continue
            try:
                yield (
                    place,
                    json.loads(line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").decode("utf-8", "surrogatepass")),
                )
            except (ValueError, RecursionError) as error:
                yield place, Skipped(place, f"does not parse ({error})")


def _table(file: Path) -> Iterator[tuple[str, Any]]:
    if file.suffix == ".json":
        try:
            rows = json.loads(file.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{file} does not parse ({error}); one object a line reads as .jsonl") from error
    else:
        import pyarrow.parquet

        try:
            rows = pyarrow.parquet.read_table(file).to_pylist()
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise SourceError(f"{file} is no parquet file ({error})") from error
    if not isinstance(rows, list):
        raise SourceError(f"{file} holds {_kind(rows)} where a list of objects is needed")
    for number, row in enumerate(rows, 1):
        yield f"{file.name}, entry {number}", row


def _with_problem(row: Any, questions: Mapping[tuple[str, str], Any] | None) -> Any:
    """An evaluation's sample with the problem that it names."""
    if not isinstance(row, Mapping) or not row.keys() >= SAMPLE:
        return row
    problem = (questions or {}).get((row["benchmark"], row["question"]))
    if problem is None:
        raise ValueError(
            f"a sample of question {row['question']} of {row['benchmark']}, whose text is not in the file: "
            f"name the problems by --benchmark {row['benchmark']}=PATH"
        )
    return {**row, "question": problem.question, "answer": problem.answer, "label": f"sample {row['index']}"}


def _record(place: str, row: Any, columns: Mapping[str, str]) -> Record | Skipped:
    if not isinstance(row, Mapping):
        raise ValueError(f"{_kind(row)} where an object is needed")
    if row.get("budget"):
        return Skipped(place, "an answer that was forced at a budget, not a whole response", is_fault=False)
    known = row if "episodes" in row else row.get("l2t")
    response = _response(row, known, columns)
    if not response.strip():
        raise ValueError("the response is empty")
    problem = _value(row, "problem", columns)
    messages = [dict(turn) for turn in problem] if isinstance(problem, list) else None
    answers = _answers(_value(row, "answer", columns))
    asked = json.dumps(problem, ensure_ascii=False, default=str)
    _check_characters(response=response, problem=asked, answer=" ".join(answers))
    label = row.get("label") or (f"step {row['step']}" if "step" in row else "")
    return Record(
        place=place,
        problem=_question(problem),
        messages=messages,
        response=response,
        answers=answers,
        outcome=_outcome(_value(row, "outcome", columns, needed=False)),
        label=str(label),
        known=known if isinstance(known, Mapping) else None,
    )


def _value(row: Mapping[str, Any], thing: str, columns: Mapping[str, str], needed: bool = True) -> Any:
    """What a row has under the first of the names of a thing.

    Raises:
        ValueError: it has none of them, with those that it has.
    """
    names: Sequence[str] = (columns[thing],) if thing in columns else COLUMNS[thing]
    for name in names:
        value: Any = row.get(name) if name in row else row
        for part in name.split(".") if name not in row else ():
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    if needed:
        wanted = " or ".join(names)
        raise ValueError(f"no column {wanted}; there are {', '.join(map(str, row))}: name it by --column {thing}=NAME")
    return None


def _response(row: Mapping[str, Any], known: Any, columns: Mapping[str, str]) -> str:
    if known is row:  # an earlier inspection
        return "".join(episode["text"] for episode in row["episodes"]) + row.get("tail", "")
    response = _value(row, "response", columns)
    if not isinstance(response, str):
        raise ValueError(f"the response is {_kind(response)} where a text is needed")
    return response


def _question(problem: Any) -> str:
    if isinstance(problem, list):
        return question_of(problem)
    if not isinstance(problem, str):
        raise ValueError(f"the problem is {_kind(problem)} where a text or a list of messages is needed")
    turns = TURNS.search(problem)
    return (turns["problem"] if turns else re.sub(r"<think>\s*\Z", "", problem)).strip()


def _answers(value: Any) -> tuple[str, ...]:
    r"""The accepted answers; of a written solution as GSM8K has them what follows its `####`.

    Example:
        >>> _answers("3 + 4 = 7\n#### 7"), _answers([1, "one"])
        (('7',), ('1', 'one'))
    """
    values = value if isinstance(value, list | tuple) else [value]
    each = [accepted_answers(item) for item in values]
    if not each or not all(each):
        raise ValueError("the reference answer is empty")
    return tuple(dict.fromkeys(text for found in each for text in found))


def _check_characters(**texts: str) -> None:
    """Refuse halves of characters, which no tokenizer takes.

    Raises:
        ValueError: a text holds a lone surrogate, with its place.
    """
    for name, text in texts.items():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"U+{ord(text[error.start]):04X}"
            raise ValueError(
                f"the {name} holds half a character ({half}, a lone surrogate), which no tokenizer takes"
            ) from None


def _outcome(value: Any) -> float | None:
    try:
        found = None if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if found is not None and not math.isfinite(found):
        raise ValueError(f"the outcome is {str(value)[:100]!r} where a number is needed")
    return found


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", type(None): "nothing"}.get(type(value), type(value).__name__)
