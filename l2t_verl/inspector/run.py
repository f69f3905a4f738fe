"""All records of a source, one after the other: what is known already is taken over, the rest is scored and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tqdm import tqdm

from l2t_verl.grading import Grader, grade_math_score
from l2t_verl.inspector.records import Record, Skipped
from l2t_verl.inspector.rollouts import Results, Rollout, key_of, recorded

if TYPE_CHECKING:  # torch and transformers come with it
    from l2t_verl.inspector.scoring import Scorer


@dataclass
class Inspected:
    """What became of a source.

    Attributes:
        rollouts: in the order of their records.
        skipped: what was left out.
    """

    rollouts: list[Rollout] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """How many records have something wrong with them."""
        return sum(item.is_fault for item in self.skipped)


def inspect_all(
    records: Iterable[Record | Skipped],
    results: Results,
    scorer: Scorer | None,
    grader: Grader,
    report: Callable[[str], None],
    *,
    keep_known: bool = False,
) -> Inspected:
    """Score records, or take over the rewards that are recorded with them.

    Args:
        records: as they were read.
        results: where rollouts are kept as they come; those that are there are not scored again.
        scorer: of responses; None: only recorded rewards are taken.
        grader: of answers whose outcome is not recorded.
        report: called at once with a line about each record that is skipped.
        keep_known: whether recorded rewards are kept even if there is a scorer.

    Returns:
        The rollouts with their rewards, and the records that were skipped.
    """
    found = Inspected()
    items = list(records)
    for item in tqdm(items, unit="rollout", desc=results.file.stem, disable=None):
        if isinstance(item, Record):
            item = _one(item, results, scorer, grader, keep_known)
        if isinstance(item, Skipped):
            found.skipped.append(item)
            if item.is_fault:
                report(f"{item.place} is skipped: {item.reason}")
        else:
            found.rollouts.append(item)
    return found


def _one(record: Record, results: Results, scorer: Scorer | None, grader: Grader, keep_known: bool) -> Rollout | Skipped:
    known = results.by_key.get(key_of(record))
    if known is not None:  # whatever stood before it in its file then
        return replace(known, place=record.place, label=record.label)
    try:
        if scorer is None or (keep_known and record.known is not None):
            rollout = recorded(record)
        else:
            rollout = scorer.rollout(record, *grade(record, grader, scorer))
    except ValueError as error:
        return Skipped(record.place, str(error))
    results.add(rollout)
    return rollout


def grade(record: Record, grader: Grader, scorer: Scorer) -> tuple[float | None, str]:
    """The outcome, and how it was found."""
    if record.outcome is not None:
        return record.outcome, "recorded"
    sample = scorer.text(record), list(record.answers), scorer.template.marks, scorer.thinking(record)
    result = asyncio.run(grader.grade(grade_math_score, *sample))
    return result.score if result.status in ("ok", "unparsable") else None, result.status
