"""What is known of a response once it is scored, and the lines of JSON that hold it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from l2t_verl.files import Kept
from l2t_verl.inspector.records import Record

KNOWN_SHARE = 0.95  # of J's way up, from which on the answer counts as known


@dataclass(frozen=True)
class Episode:
    """One step of the reasoning; the names are those of the plugin's own dump.

    Attributes:
        text: of its tokens.
        start: its first token.
        end: the first token after it.
        answer_score: J after it.
        gain: by how much it changed J.
        penalty: in nats; None where no reference was there to measure it.
        reward: gain minus β times the penalty.
        states_answer: whether its text holds the reference answer; None where it is not known.
    """

    text: str
    start: int
    end: int
    answer_score: float
    gain: float
    penalty: float | None
    reward: float
    states_answer: bool | None = None


@dataclass(frozen=True)
class Rollout:
    """A response with its rewards.

    Attributes:
        key: of its problem, answer and text.
        place: file and line of its record.
        label: where it comes from in its run.
        problem: what was asked.
        answer: the accepted answers.
        outcome: more than 0 for a right answer; None without a grade.
        grading: `ok`, `recorded`, or why there is no grade.
        tokens: of the response.
        answer_score_start: J before any thinking.
        episodes: in their order.
        tail: what follows the reasoning.
    """

    key: str
    place: str
    label: str
    problem: str
    answer: tuple[str, ...]
    outcome: float | None
    grading: str
    tokens: int
    answer_score_start: float | None
    episodes: tuple[Episode, ...]
    tail: str

    @property
    def scores(self) -> list[float]:
        """J_0 … J_K; empty where nothing was scored."""
        if self.answer_score_start is None:
            return []
        return [self.answer_score_start, *(episode.answer_score for episode in self.episodes)]

    @property
    def lowest_reward(self) -> float:
        """Of its episodes; 0 where there is none."""
        return min((episode.reward for episode in self.episodes), default=0.0)

    @property
    def redundancy(self) -> float:
        """Share of the reasoning's tokens after J had come 95 % of its way from its lowest to its highest value.

        Example:
            >>> episodes = [Episode("", 0, 10, 0.5, 0.4, None, 0.4), Episode("", 10, 40, 0.5, 0.0, None, 0.0)]
            >>> Rollout("", "", "", "", ("1",), None, "", 40, 0.1, tuple(episodes), "").redundancy
            0.75
        """
        scores = self.scores
        if len(scores) < 2:
            return 0.0
        level = min(scores) + KNOWN_SHARE * (max(scores) - min(scores))
        reached = next(k for k, score in enumerate(scores) if score >= level)
        end = self.episodes[-1].end
        return 1 - (self.episodes[reached - 1].end if reached else 0) / end


def key_of(record: Record) -> str:
    """The same for the same problem, answer and text, wherever they stand."""
    text = json.dumps([record.problem, record.messages, record.answers, record.response])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]


def recorded(record: Record) -> Rollout:
    """The rollout with the rewards that are recorded with it.

    Raises:
        ValueError: there are none, or they do not have the form of a dump.
    """
    known = record.known
    if known is None:
        raise ValueError("no rewards are recorded with it: name a model to score it by --model")
    names = [field.name for field in fields(Episode)]
    try:
        episodes = tuple(Episode(**{name: row[name] for name in names if name in row}) for row in known["episodes"])
        found = Rollout(
            key=key_of(record),
            place=record.place,
            label=record.label,
            problem=record.problem,
            answer=record.answers,
            outcome=known.get("outcome", record.outcome),
            grading=str(known.get("grading") or "recorded"),
            tokens=known["tokens"],
            answer_score_start=known["answer_score_start"],
            episodes=episodes,
            tail=known.get("tail", ""),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the rewards that are recorded with it have another form ({error!r})") from error
    if fault := _fault(found):
        raise ValueError(f"the rewards that are recorded with it have another form ({fault})")
    return found


def _fault(rollout: Rollout) -> str | None:
    """What of a rollout is not what it should be: a text, a finite number, tokens in their order."""
    texts = [("tail", rollout.tail), *(("text", episode.text) for episode in rollout.episodes)]
    numbers = [("outcome", rollout.outcome), ("answer_score_start", rollout.answer_score_start)]
    numbers += [("penalty", episode.penalty) for episode in rollout.episodes]
    numbers = [(name, number) for name, number in numbers if number is not None]
    numbers += [(name, getattr(of, name)) for of in rollout.episodes for name in ("answer_score", "gain", "reward")]
    if wrong := [name for name, text in texts if not isinstance(text, str)]:
        return f"{wrong[0]} is no text"
    if wrong := [name for name, number in numbers if not _is_finite(number)]:
        return f"{wrong[0]} is no finite number"
    places = [0, *(place for episode in rollout.episodes for place in (episode.start, episode.end)), rollout.tokens]
    if not all(type(place) is int and _is_finite(place) for place in places) or sorted(places) != places:
        return "its episodes' tokens do not follow each other"
    if any(episode.start == episode.end for episode in rollout.episodes):
        return "an episode has no token"
    if rollout.episodes and rollout.answer_score_start is None:
        return "it has episodes and no answer_score_start"
    return None


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:  # an integer with hundreds of digits
        return False


class Results(Kept[Rollout]):
    """Scored rollouts in a file; see `Kept`."""

    def __init__(self, file: Path):
        super().__init__(file, _of_json, "rollout")


def _of_json(row: Mapping[str, Any]) -> Rollout:
    episodes = tuple(Episode(**episode) for episode in row["episodes"])
    return Rollout(**{**row, "answer": tuple(row["answer"]), "episodes": episodes})
