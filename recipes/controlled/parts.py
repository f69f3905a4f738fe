"""A bed where right answers are rare and progress is visible: an answer of independent parts, and each has to be right.

A problem is one digit and three, four or five parts of two computed values that begin with it, and asks for the end of
each: `a=3;b:4+a;c:2*b;d:1-a;e:3+d;f:5*a;g:2-f;?ceg`. The start errs in nearly half of its steps: of its responses three in a
hundred are right, of the answers' digits a third.

python -m recipes.controlled.parts run length_penalty_03 length_penalty_06 length_penalty_09 --seeds 0
python -m recipes.controlled.parts run default shaped critic critic_free episode episode_charged true_labels grpo --seeds 0
python -m recipes.controlled.parts run grpo length_penalty_09 episode true_labels --seeds 1 2 3
python -m recipes.controlled.parts run mean_probability smoothed smoothed_later smoothed_later_priced --seeds 0
python -m recipes.controlled.parts run grpo length_penalty_09 smoothed --seeds 4 5 6 7
python -m recipes.controlled.parts run guided_2 guided guided_charged --seeds 0
python -m recipes.controlled.parts run guided_charged --seeds 4 5 6 7 8 9 10 11 12 13
python -m recipes.controlled.parts run grpo length_penalty_09 --seeds 8 9 10 11 12 13
python -m recipes.controlled.table runs/controlled/bed --table recipes/controlled/parts.parquet
python -m recipes.controlled.parts table
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from recipes.controlled import tables
from recipes.controlled.bed import COMPUTED, Bed, Command, digits, settings_of
from recipes.controlled.comparison import Run, accuracy, late, of_starts, on_test, paired, start, tokens
from recipes.controlled.intervals import estimate
from recipes.controlled.settings import Settings
from recipes.controlled.task import Definition, Problem, chain, given, shuffled_names

TABLE = Path(__file__).with_name("parts.parquet")
START = Path(__file__).with_name("parts_start")
# Starts, all of one command: the first's weights were not kept, and where it is made again rounding makes another
LOST, KEPT = 1, 2
PARTS = {"three": 3, "four": 4, "five": 5}
TRAINED = 60  # updates of a run
TUNING = 0  # the seed whose runs are measured on validation problems, where strengths are chosen
PENALTY = "length_penalty_09"  # the strength that comes nearest to own gain in tokens on the validation problems
WINDOW = 10  # steps over which training's accuracy is averaged


def _l2t(change: str = "", **credit: Any) -> dict[str, Any]:
    return {"estimator": "l2t", "l2t": {"beta": 0.0, "credit": credit}, "change": change}


def _of_kind(kind: str, **credit: Any) -> dict[str, Any]:
    return {"estimator": "l2t", "l2t": {"beta": 0.0, "gain": {"kind": kind}, "credit": {"method": "episode"} | credit}}


def _length_penalty(strength: float) -> dict[str, Any]:
    return {"estimator": "l2t", "l2t": {"credit": {"method": "length_penalty", "length_penalty": strength}}}


ARMS: dict[str, dict[str, Any]] = {
    "grpo": {"estimator": "grpo"},
    "length_penalty_03": _length_penalty(0.3),
    "length_penalty_06": _length_penalty(0.6),
    "length_penalty_09": _length_penalty(0.9),
    "shaped": _l2t(method="shaped"),
    "critic": _l2t(method="critic", length_cost=4.0),
    "critic_free": _l2t(method="critic", length_cost=0.0),
    "default": {"estimator": "l2t", "l2t": {"credit": {"method": "shaped"}}},  # as it was then
    "episode_charged": {"estimator": "l2t", "l2t": {"credit": {"method": "episode"}}},
    "episode": _l2t(method="episode"),
    "mean_probability": _of_kind("mean_probability"),
    "smoothed": _of_kind("smoothed_logprob"),
    "smoothed_later": _of_kind("smoothed_logprob", gamma=0.7),
    "smoothed_later_priced": _of_kind("smoothed_logprob", gamma=0.7, length_cost=2.0),
    "guided_2": _of_kind("smoothed_logprob", method="guided", length_cost=2.0),
    "guided": _of_kind("smoothed_logprob", method="guided", length_cost=4.0),
    "guided_charged": {
        "estimator": "l2t",
        "l2t": {"gain": {"kind": "smoothed_logprob"}, "credit": {"method": "guided", "length_cost": 4.0}},
    },
    "true_labels": _l2t("true_labels", method="episode"),
}
TITLES = {
    "start": "the start",
    "grpo": "GRPO",
    "length_penalty_03": "length penalty 0.3",
    "length_penalty_06": "length penalty 0.6",
    "length_penalty_09": "length penalty 0.9",
    "shaped": "gain still to come, no penalty",
    "critic": "J as a critic, length price 4",
    "critic_free": "J as a critic, no length price",
    "default": "L2T's defaults of then: gain still to come, with the penalty",
    "episode_charged": "own gain, with the penalty",
    "episode": "own gain, no penalty",
    "mean_probability": "own gain of the mean probability, no penalty",
    "smoothed": "own gain of the smoothed log-prob, no penalty",
    "smoothed_later": "own gain of the smoothed log-prob, with 0.7 of the next gain, 0.49 of the one after, …",
    "smoothed_later_priced": "…, and a length price of 2",
    "guided_2": "the critic, guided by own gain of the smoothed log-prob, length price 2, no penalty",
    "guided": "…, length price 4, no penalty",
    "guided_charged": "L2T's defaults: guided as above, length price 4, with the penalty",
    "true_labels": "bound: true labels in place of gains",
}


def draw(generator: random.Random, tier: str) -> Problem:
    """A random problem of as many parts as the tier says."""
    names = shuffled_names(generator)
    first = next(names)
    definitions: list[Definition] = []
    asked = ""
    for _ in range(PARTS[tier]):
        definitions += chain(generator, names, first, COMPUTED)
        asked += definitions[-1].name
    return Problem((given(generator, first), *definitions), asked, tier)


BED = Bed("bed", PARTS, draw, steps=3000, rate=1e-3)


def arm_settings(arm: str, seed: int, steps: int = TRAINED) -> Settings:
    """An arm's run on the bed: of the tuning seed on validation problems, of the others on test problems."""
    return settings_of(ARMS, arm, seed, steps, "validation" if seed == TUNING else "test", KEPT)


def training_accuracy(run: Run) -> np.ndarray:
    """Of each step and the nine before it, as far as there are so many, in percent."""
    of_steps = [point["accuracy"] for point in run["curve"]]
    return np.array([100 * np.mean(of_steps[max(0, k - WINDOW) : k]) for k in range(1, len(of_steps) + 1)])


def steps_until(run: Run, level: float) -> float:
    """Steps of training until its accuracy is at a level, in percent; infinite if it never is.

    Example:
        >>> steps_until({"curve": [{"accuracy": 0.0}, {"accuracy": 1.0}, {"accuracy": 1.0}]}, 50.0)
        2.0
    """
    there = np.flatnonzero(training_accuracy(run) >= level)
    return float(there[0] + 1) if len(there) else float("inf")


def table(runs: list[Run]) -> str:
    """Means over the seeds that confirm, with 95 % intervals over seeds, and differences paired by seed."""
    rows = []
    for name, starts in {"1": (LOST,), "2": (KEPT,), "both": (LOST, KEPT)}.items():
        found = {arm: confirming(of_starts(runs, starts), arm) for arm in TITLES}
        for arm, own in found.items():
            if {start(run) for run in own.values()} == set(starts):
                rows.append([name, TITLES[arm], *_row(own, found["grpo"], found[PENALTY])])
    header = ["start", "arm", "seeds", "right, %", "digits right, %", "tokens", "KL, nats", "Δ right to GRPO, points"]
    header += ["Δ tokens to GRPO, %", "steps to GRPO's last accuracy"]
    header += ["Δ right to the length penalty, points", "Δ tokens to the length penalty, %"]
    return tables.table(header, rows)


def _row(own: dict[int, Run], grpo: dict[int, Run], penalty: dict[int, Run]) -> list[str]:
    of = lambda read: estimate([(start(run), read(run)) for run in own.values()]).text()  # noqa: E731
    row = [str(len(own)), of(accuracy), of(digits), of(tokens)]
    if not any(run["curve"] for run in own.values()):
        return [*row, "0", *["–"] * 5]
    return [*row, of(_moved), *_gaps(own, grpo), _until(own, grpo), *_gaps(own, penalty)]


def tuning_table(runs: list[Run]) -> str:
    """The runs of the tuning seed, on validation problems."""
    of_arm = {(start(run), run["settings"]["arm"]): run for run in runs if run["settings"]["seed"] == TUNING}
    rows = [
        [str(which), title, f"{accuracy(run):.1f}", f"{digits(run):.1f}", f"{tokens(run):.0f}"]
        for which in (LOST, KEPT)
        for arm, title in TITLES.items()
        if (run := of_arm.get((which, arm)))
    ]
    return tables.table(["start", "arm", "right, %", "digits right, %", "tokens"], rows)


def confirming(runs: list[Run], arm: str) -> dict[int, Run]:
    """An arm's runs on the test problems, by seed."""
    return {run["settings"]["seed"]: run for run in on_test(runs, arm)}


def _gaps(own: dict[int, Run], base: dict[int, Run]) -> tuple[str, str]:
    if own is base or not set(own) & set(base):
        return "–", "–"
    points, percent = tables.gaps(own, base)
    return points.text(), percent.text()


def _until(own: dict[int, Run], base: dict[int, Run]) -> str:
    values = paired(own, base, lambda a, b: steps_until(a, training_accuracy(b)[-1]))
    if not all(np.isfinite(value) for _, value in values):
        return "not by all"
    return estimate(values).text() if values else "–"


def _moved(run: Run) -> float:
    return late(run, "kl")


COMMAND = Command(BED, arm_settings, table, tuple(TITLES), TRAINED, TABLE, START)


def main() -> None:
    COMMAND.main(__doc__)


if __name__ == "__main__":
    main()
