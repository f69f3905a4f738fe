"""What J sees in one response: after each episode, and after needless steps in the place of its own; kept a line each."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from l2t_verl import episodes, gain
from l2t_verl.config import L2TConfig
from l2t_verl.files import Kept
from l2t_verl.inspector.records import Record
from l2t_verl.inspector.rollouts import key_of
from l2t_verl.inspector.scoring import Scorer
from l2t_verl.packing import why_not_packed

CONFIGURED = "configured"
# J is forced by the configured text and, for comparison, by these
SUFFIXES = {
    "boxed": ("\n\nThe final answer is \\boxed{", "}"),
    "####": ("\n\n#### ", "\n"),
    "sentence": ("\n\nThe answer is ", ".\n"),
}
SEGMENTERS = ("paragraphs", "discourse_markers")
FORWARD_KINDS = ("geometric", "probability", "mean_probability", "smoothed_logprob", "mean_logprob")
PLACES = 6  # of a response, at most, in which a needless step is tried
NOWHERE = -1


@dataclass(frozen=True)
class Compared:
    """Needless steps in the place of a response's own, seen in one way: what each adds to the J before both.

    Attributes:
        segmenter: that cut the response.
        suffix: that forced the answers; a name of `SUFFIXES`, or `configured`.
        kind: of J.
        steps: what stood there: `again`, an earlier episode, or `foreign`, one of another question's response.
        before: whether the own episode there ends before the answer is stated for the first time.
        own: gain of the own episode there.
        needless: gain of the needless step in its place.
    """

    segmenter: str
    suffix: str
    kind: str
    steps: list[str]
    before: list[bool]
    own: list[float]
    needless: list[float]


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
        compared: own steps with needless ones, of the response that was chosen for it.
    """

    key: str
    group: str
    outcome: float
    tokens: int
    ends: list[int]
    scores: list[float]
    stated: int
    forced: int
    compared: list[Compared]


class _Ask(NamedTuple):
    """A J that is wanted: after k episodes and perhaps a step."""

    prefix: int
    suffix: str = CONFIGURED
    step: tuple[int, ...] = ()


class Looker:
    """Looks at responses by a scorer of the inspector's.

    Args:
        scorer: as configured.
        seed: of the choice of needless steps and their places.
    """

    def __init__(self, scorer: Scorer, seed: int):
        self.scorer, self.config, self.seed = scorer, scorer.config, seed
        own = scorer.template
        self.templates = {CONFIGURED: own} | {
            name: replace(own, suffix=suffix, closing=closing)
            for name, (suffix, closing) in SUFFIXES.items()
            if (suffix, closing) != (own.suffix, own.closing)
        }
        self.segmenters = [name for name in SEGMENTERS if name != self.config.episodes.method]

    @torch.no_grad()
    def look(
        self, record: Record, group: str, outcome: float, foreign: Sequence[str] = (), number: int | None = None
    ) -> Seen:
        """Score a response.

        Args:
            record: the response.
            group: of its problem.
            outcome: of it.
            foreign: responses to other questions, whose episodes are tried in place of this one's.
            number: of the question, which decides which other segmenter is tried; None: own steps are not compared.

        Raises:
            ValueError: it cannot be scored; the message says why.
        """
        scorer, kind = self.scorer, self.config.gain.kind
        prompt, response = scorer.prompt(record), scorer.response(record)
        scorer.check_length(prompt, response, record.answers)
        ends = scorer.ends(prompt, response)
        asks = [_Ask(k) for k in range(len(ends) + 1)]
        scores, forced = self._scores(prompt, response, ends, record.answers, asks, [kind])
        compared: list[Compared] = []
        if number is not None:
            kinds = list(dict.fromkeys((kind, *FORWARD_KINDS)))
            compared = self._compared(prompt, response, record, foreign, self.config, list(self.templates), kinds)
            if compared and self.segmenters:
                other = self._cut_by(self.segmenters[number % len(self.segmenters)])
                compared += self._compared(prompt, response, record, foreign, other, [CONFIGURED], [kind])
        return Seen(
            key=key_of(record),
            group=group,
            outcome=outcome,
            tokens=len(response),
            ends=ends,
            scores=[scores[ask, kind] for ask in asks],
            stated=_first(self._texts(response, ends), record.answers),
            forced=forced,
            compared=compared,
        )

    def _cut_by(self, segmenter: str) -> L2TConfig:
        return self.config.model_copy(update={"episodes": self.config.episodes.model_copy(update={"method": segmenter})})

    def _compared(
        self,
        prompt: list[int],
        response: list[int],
        record: Record,
        foreign: Sequence[str],
        config: L2TConfig,
        suffixes: list[str],
        kinds: list[str],
    ) -> list[Compared]:
        """Own steps against needless ones; nothing where a response has one episode alone."""
        ends, draws = self.scorer.ends(prompt, response, config), random.Random(f"{self.seed} {key_of(record)}")
        stated = _first(self._texts(response, ends), record.answers)
        chosen = self._needless(prompt, response, ends, record.answers, foreign, config, draws)
        wanted = {
            (suffix, k): (_Ask(k, suffix), _Ask(k + 1, suffix), _Ask(k, suffix, step))
            for suffix in suffixes
            for k, (_, step) in chosen.items()
        }
        asks = list(dict.fromkeys(ask for three in wanted.values() for ask in three))
        if not asks:
            return []
        scores, _ = self._scores(prompt, response, ends, record.answers, asks, kinds)
        found = []
        for suffix, kind in itertools.product(suffixes, kinds):
            own, needless = [], []
            for k in chosen:
                before, after, instead = (scores[ask, kind] for ask in wanted[suffix, k])
                own.append(after - before)
                needless.append(instead - before)
            steps, early = [name for name, _ in chosen.values()], [stated == NOWHERE or k < stated for k in chosen]
            found.append(Compared(config.episodes.method, suffix, kind, steps, early, own, needless))
        return found

    def _needless(
        self,
        prompt: list[int],
        response: list[int],
        ends: list[int],
        answers: Sequence[str],
        foreign: Sequence[str],
        config: L2TConfig,
        draws: random.Random,
    ) -> dict[int, tuple[str, tuple[int, ...]]]:
        """Needless steps by the number of episodes before them, from 1 on: an earlier episode and a foreign one in turn.

        A step that holds a mark of the thought is none, since it would change where the thinking stands; nor is one of
        another response that states this one's answer.
        """
        marks, room = self.scorer.template.marks, self._room(prompt, response, answers)
        texts, pieces = self._texts(response, ends), _pieces(response, ends)
        fits = lambda text, piece: (  # noqa: E731
            len(piece) <= room and marks.opening not in text and marks.closing not in text
        )
        pool = []
        for other in foreign if config.episodes.method != "surprise" else ():  # which would have to be read for it
            ids = self.scorer.tokenizer.encode(other, add_special_tokens=False)
            cut = self.scorer.ends(prompt, ids, config) if ids else []
            pool += [
                piece
                for text, piece in zip(self._texts(ids, cut), _pieces(ids, cut), strict=True)
                if fits(text, piece) and not _states(text, answers)
            ]
        places = sorted(draws.sample(range(1, len(ends)), min(PLACES, len(ends) - 1))) if len(ends) > 1 else []
        found: dict[int, tuple[str, tuple[int, ...]]] = {}
        for number, k in enumerate(places):
            earlier = [piece for text, piece in zip(texts[:k], pieces[:k], strict=True) if fits(text, piece)]
            kinds = [("again", earlier), ("foreign", pool)]
            name, among = next((pair for pair in (kinds[number % 2], kinds[1 - number % 2]) if pair[1]), ("", []))
            if among:
                found[k] = name, tuple(draws.choice(among))
        return found

    def _room(self, prompt: list[int], response: list[int], answers: Sequence[str]) -> int:
        """How many tokens a step may have."""
        for tokens in (256, 64, 16):
            try:
                self.scorer.check_length(prompt, [*response, *range(tokens)], answers)
            except ValueError:
                continue
            return tokens
        return 0

    def _scores(
        self,
        prompt: list[int],
        response: list[int],
        ends: list[int],
        answers: Sequence[str],
        asks: Sequence[_Ask],
        kinds: Sequence[str],
    ) -> tuple[dict[tuple[_Ask, str], float], int]:
        """J of each kind for all that is asked, of the best of several answers, in one forward; and the tokens forced."""
        prefixes = [0, *ends]
        asks = sorted(asks, key=lambda ask: ask.prefix)
        targets = {
            (name, answer): gain.answer_targets(self.scorer.tokenizer, prompt, response, ends, answer, self.templates[name])
            for name in {ask.suffix for ask in asks}
            for answer in answers
        }
        # sorted by prefix: the backends read the response up to the last one
        each = [(ask, targets[ask.suffix, answer][ask.prefix]) for ask in asks for answer in answers]
        backend = gain.BACKENDS["packed" if why_not_packed(self.scorer.model) is None else "expanded"]
        log_probs = backend(
            self.scorer.model,
            prompt,
            response,
            [prefixes[ask.prefix] for ask, _ in each],
            [[*ask.step, *target.suffix_ids] for ask, target in each],
            [list(target.answer_ids) for _, target in each],
            self.config.gain.max_tokens_per_micro_batch,
        )
        lengths = torch.tensor([len(values) for values in log_probs])
        padded = torch.nn.utils.rnn.pad_sequence(log_probs, batch_first=True)
        found: dict[tuple[_Ask, str], float] = {}
        for kind in kinds:
            table = gain.reduce_log_probs(padded, lengths, kind=kind).view(len(asks), len(answers))
            best = gain.best_of_answers(table.T).double().tolist()
            found |= {(ask, kind): score for ask, score in zip(asks, best, strict=True)}
        return found, sum(len(target.suffix_ids) + len(target.answer_ids) for _, target in each)

    def _texts(self, ids: list[int], ends: Sequence[int]) -> list[str]:
        whole = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return [self.scorer.tokenizer.decode(piece, **whole) for piece in _pieces(ids, ends)]


class SeenFile(Kept[Seen]):
    """Responses that have been looked at, in a file; see `Kept`."""

    def __init__(self, file: Path):
        super().__init__(file, _of_json, "response")


def _of_json(row: Mapping[str, Any]) -> Seen:
    return Seen(**{**row, "compared": [Compared(**compared) for compared in row["compared"]]})


def _pieces(ids: list[int], ends: Sequence[int]) -> list[list[int]]:
    return [ids[start:end] for start, end in itertools.pairwise([0, *ends])]


def _states(text: str, answers: Sequence[str]) -> bool:
    return any(episodes.states_answer(text, answer) for answer in answers)


def _first(texts: Sequence[str], answers: Sequence[str]) -> int:
    """The number of the first text that states an answer."""
    return next((number for number, text in enumerate(texts) if _states(text, answers)), NOWHERE)
