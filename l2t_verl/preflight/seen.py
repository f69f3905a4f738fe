"""What J sees in one response, as it is and with needless steps put in; kept a line each."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from l2t_verl import episodes, gain
from l2t_verl.config import L2TConfig
from l2t_verl.files import FileError, append_lines, read_lines
from l2t_verl.inspector.records import Record
from l2t_verl.inspector.rollouts import key_of
from l2t_verl.inspector.scoring import Scorer
from l2t_verl.packing import why_not_packed
from l2t_verl.preflight.needless import Probe, with_needless

# J is forced by the configured text and, for comparison, by these
SUFFIXES = {
    "boxed": ("\n\nThe final answer is \\boxed{", "}"),
    "####": ("\n\n#### ", "\n"),
    "sentence": ("\n\nThe answer is ", ".\n"),
}
SEGMENTERS = ("paragraphs", "discourse_markers")
FORWARD_KINDS = ("geometric", "probability", "mean_logprob")
NOWHERE = -1


@dataclass(frozen=True)
class Probed:
    """A response with needless steps, seen in one way.

    Attributes:
        segmenter: that cut it.
        suffix: that forced the answers; a name of `SUFFIXES`, or `configured`.
        kind: of J.
        labels: [K] of the episodes; see `Probe`.
        before: [K] whether the episode ends before the answer is stated for the first time.
        gains: [K] of the episodes.
    """

    segmenter: str
    suffix: str
    kind: str
    labels: list[str]
    before: list[bool]
    gains: list[float]


@dataclass(frozen=True)
class Seen:
    """One response.

    Attributes:
        key: of its problem, answer and text.
        group: of its problem.
        outcome: more than 0 for a right answer.
        tokens: of the response.
        ends: K ends of its episodes, in tokens.
        scores: [K+1] J_0 … J_K as configured.
        stated: number of the first episode that states the answer, from 0; −1 where none does.
        forced: tokens of its forced answers.
        probes: of a right response.
    """

    key: str
    group: str
    outcome: float
    tokens: int
    ends: list[int]
    scores: list[float]
    stated: int
    forced: int
    probes: list[Probed]


class Looker:
    """Looks at responses by a scorer of the inspector's.

    Args:
        scorer: as configured.
        seed: of the places of needless steps.
    """

    def __init__(self, scorer: Scorer, seed: int):
        self.scorer, self.config, self.seed = scorer, scorer.config, seed
        own = scorer.template
        self.templates = {"configured": own} | {
            name: replace(own, suffix=suffix, closing=closing)
            for name, (suffix, closing) in SUFFIXES.items()
            if (suffix, closing) != (own.suffix, own.closing)
        }
        self.segmenters = [name for name in SEGMENTERS if name != self.config.episodes.method]

    def look(self, record: Record, group: str, outcome: float, foreign: Sequence[str], probe: int | None) -> Seen:
        """Score a response.

        Args:
            record: the response.
            group: of its problem.
            outcome: of it.
            foreign: responses to other questions, whose episodes are put into this one.
            probe: number of this probe among all, which decides on the other segmenter that is tried; None: no probe.

        Raises:
            ValueError: it cannot be scored; the message says why.
        """
        scorer = self.scorer
        prompt, response = scorer.prompt(record), scorer.response(record)
        scorer.check_length(prompt, response, record.answers)
        ends = self._ends(prompt, response, self.config)
        tables, forced = self._scores(prompt, response, ends, record.answers, ["configured"], [self.config.gain.kind])
        pieces = self._texts(response, ends)
        stated = _first(pieces, record.answers)
        seen = Seen(
            key=key_of(record),
            group=group,
            outcome=outcome,
            tokens=len(response),
            ends=ends,
            scores=tables["configured", self.config.gain.kind],
            stated=stated,
            forced=forced,
            probes=[],
        )
        if probe is None:
            return seen
        tried = [(self.config, list(self.templates), list(FORWARD_KINDS))]
        if self.segmenters and self.config.episodes.method != "surprise":
            tried.append(
                (self._cut_by(self.segmenters[probe % len(self.segmenters)]), ["configured"], [self.config.gain.kind])
            )
        found = [self._probe(prompt, response, record, foreign, *way) for way in tried]
        return replace(seen, probes=[probed for of_way in found for probed in of_way])

    def _cut_by(self, segmenter: str) -> L2TConfig:
        return self.config.model_copy(update={"episodes": self.config.episodes.model_copy(update={"method": segmenter})})

    def _probe(
        self,
        prompt: list[int],
        response: list[int],
        record: Record,
        foreign: Sequence[str],
        config: L2TConfig,
        suffixes: list[str],
        kinds: list[str],
    ) -> list[Probed]:
        ends = self._ends(prompt, response, config)
        if len(ends) < 2:
            return []
        draws = random.Random(f"{self.seed} {key_of(record)} {config.episodes.method}")
        pool = [piece for text in foreign for piece in self._pieces(text, prompt, config)]
        pool = [piece for piece in pool if not _states(self._text(piece), record.answers)]
        probe = with_needless(response, ends, pool, draws)
        try:
            self.scorer.check_length(prompt, probe.ids, record.answers)
        except ValueError:  # with what was put in it is longer than the model can read
            return []
        tables, _ = self._scores(prompt, probe.ids, probe.ends, record.answers, suffixes, kinds)
        return [
            Probed(config.episodes.method, suffix, kind, probe.labels, self._before(probe, record.answers), _gains(scores))
            for (suffix, kind), scores in tables.items()
        ]

    def _before(self, probe: Probe, answers: Sequence[str]) -> list[bool]:
        stated = _first(self._texts(probe.ids, probe.ends), answers)
        return [stated == NOWHERE or number < stated for number in range(len(probe.ends))]

    def _pieces(self, text: str, prompt: list[int], config: L2TConfig) -> list[list[int]]:
        ids = self.scorer.tokenizer.encode(text, add_special_tokens=False)
        ends = self._ends(prompt, ids, config) if ids else []
        return [ids[start:end] for start, end in itertools.pairwise([0, *ends])]

    def _ends(self, prompt: list[int], response: list[int], config: L2TConfig) -> list[int]:
        return self.scorer.ends(prompt, response, config)

    def _texts(self, ids: list[int], ends: Sequence[int]) -> list[str]:
        return [self._text(ids[start:end]) for start, end in itertools.pairwise([0, *ends])]

    def _text(self, ids: list[int]) -> str:
        return self.scorer.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    @torch.no_grad()
    def _scores(
        self,
        prompt: list[int],
        response: list[int],
        ends: list[int],
        answers: Sequence[str],
        suffixes: list[str],
        kinds: list[str],
    ) -> tuple[dict[tuple[str, str], list[float]], int]:
        """[K+1] J of each suffix and kind, of the best of several answers, in one forward; and tokens that were forced."""
        prefixes = [0, *ends]
        ways = [(name, answer) for name in suffixes for answer in answers]
        targets = [
            gain.answer_targets(self.scorer.tokenizer, prompt, response, ends, answer, self.templates[name])
            for name, answer in ways
        ]
        by_prefix = [(end, of_way[k]) for k, end in enumerate(prefixes) for of_way in targets]
        backend = gain.BACKENDS["packed" if why_not_packed(self.scorer.model) is None else "expanded"]
        log_probs = backend(
            self.scorer.model,
            prompt,
            response,
            [end for end, _ in by_prefix],
            [list(target.suffix_ids) for _, target in by_prefix],
            [list(target.answer_ids) for _, target in by_prefix],
            self.config.gain.max_tokens_per_micro_batch,
        )
        found = {}
        for name in suffixes:
            for kind in kinds:
                of_answers = []
                for number, (of, _) in enumerate(ways):
                    if of == name:
                        rows = log_probs[number :: len(ways)]
                        lengths = torch.tensor([len(row) for row in rows])
                        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
                        of_answers.append(gain.reduce_log_probs(padded, lengths, kind=kind))
                found[name, kind] = gain.best_of_answers(torch.stack(of_answers)).double().tolist()
        return found, sum(len(target.suffix_ids) + len(target.answer_ids) for _, target in by_prefix)


class SeenFile:
    """Responses that have been looked at, in one file that only grows.

    Args:
        file: made with the first of them.

    Raises:
        FileError: a line in the middle is none.
    """

    def __init__(self, file: Path):
        self.file = file
        self.by_key = {seen.key: seen for seen in self._read()}

    def add(self, seen: Seen) -> None:
        """Append one and see it on the disk.

        Raises:
            FileError: the file cannot be written.
        """
        append_lines(self.file, [asdict(seen)])
        self.by_key[seen.key] = seen

    def _read(self) -> Iterator[Seen]:
        for number, line in read_lines(self.file):
            try:
                yield _of_json(json.loads(line))
            except (ValueError, TypeError, KeyError) as error:
                raise FileError(f"{self.file}, line {number} is no response ({error}); take another --out") from error


def _of_json(row: Mapping[str, Any]) -> Seen:
    return Seen(**{**row, "probes": [Probed(**probe) for probe in row["probes"]]})


def _gains(scores: Sequence[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(scores)]


def _states(text: str, answers: Sequence[str]) -> bool:
    return any(episodes.states_answer(text, answer) for answer in answers)


def _first(texts: Sequence[str], answers: Sequence[str]) -> int:
    """The number of the first text that states an answer."""
    return next((number for number, text in enumerate(texts) if _states(text, answers)), NOWHERE)
