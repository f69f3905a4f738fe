"""A bed where right answers are rare: several chains at once, of which the answer needs every last value.

A problem is two, three or four chains of two computed values, and asks for the end of each:
`a=3;b:4+a;c:2*b;d=5;e:1-d;f:3+e;?cf`. The start learns from solutions with 45 % mistakes, so that nearly all groups are all
wrong: what an arm moves there is noise.

python -m recipes.controlled.sparse start
python -m recipes.controlled.sparse run start grpo critic length_penalty default --seeds 0
python -m recipes.controlled.sparse run grpo default charged --seeds 0 --steps 100
python -m recipes.controlled.table runs/controlled/sparse --table recipes/controlled/sparse.parquet
python -m recipes.controlled.sparse table
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipes.controlled import tables
from recipes.controlled.bed import COMPUTED, Bed, Command, digits, settings_of
from recipes.controlled.comparison import Run, accuracy, late, tokens
from recipes.controlled.settings import Settings
from recipes.controlled.task import Definition, Problem, chain, given, shuffled_names

TABLE = Path(__file__).with_name("sparse.parquet")
CHAINS = {"two": 2, "three": 3, "four": 4}
TRAINED, LONG = 30, 100  # updates of a run
IMMEDIATE = {"beta": 0.0, "credit": {"method": "episode"}}
ARMS: dict[str, dict[str, Any]] = {
    "grpo": {"estimator": "grpo"},
    "length_penalty": {"estimator": "l2t", "l2t": {"credit": {"method": "length_penalty", "length_penalty": 0.6}}},
    "default": {"estimator": "l2t", "l2t": {"credit": {"method": "shaped"}}},  # what they were then
    "charged": {
        "estimator": "l2t",
        "l2t": {"credit": {"method": "shaped"}, "compression": {"in_wrong_groups": True}},
    },
    "episode": {"estimator": "l2t", "l2t": IMMEDIATE},
    "critic": {"estimator": "l2t", "l2t": {"beta": 0.0, "credit": {"method": "critic"}}},
    "true_labels": {"estimator": "l2t", "l2t": IMMEDIATE, "change": "true_labels"},
}
TITLES = {
    "start": "the start",
    "grpo": "GRPO",
    "length_penalty": "length penalty 0.6",
    "default": "L2T's defaults",
    "charged": "… with the penalty in groups that are all wrong, too",
    "episode": "own gain, no penalty",
    "critic": "J as a critic",
    "true_labels": "bound: true labels in place of gains",
}


def draw(generator: random.Random, tier: str) -> Problem:
    """A random problem of as many chains as the tier says."""
    names = shuffled_names(generator)
    definitions: list[Definition] = []
    asked = ""
    for _ in range(CHAINS[tier]):
        definitions.append(given(generator, next(names)))
        definitions += chain(generator, names, definitions[-1].name, COMPUTED)
        asked += definitions[-1].name
    return Problem(tuple(definitions), asked, tier)


BED = Bed("sparse", CHAINS, draw, steps=800, rate=5e-4)


def arm_settings(arm: str, seed: int, steps: int = TRAINED) -> Settings:
    """An arm's run on the bed's validation problems, on which nothing is tuned."""
    return settings_of(ARMS, arm, seed, steps, "validation")


def moved(runs: list[Run]) -> float:
    """KL from the start to the policy, in nats a response, over the last ten steps of all runs."""
    return statistics.mean(late(run, "kl") for run in runs)


def of_arm(runs: list[Run], arm: str, steps: int) -> list[Run]:
    """An arm's runs of so many updates."""
    return [run for run in runs if (run["settings"]["arm"], run["settings"]["steps"]) == (arm, steps)]


def moved_against_grpo(runs: list[Run], arm: str, steps: int) -> float:
    """How far an arm moves from the start, as a multiple of what GRPO does in as many updates; NaN without either."""
    own, base = (of_arm(runs, name, steps) for name in (arm, "grpo"))
    return moved(own) / moved(base) if own and base else math.nan


def table(runs: list[Run]) -> str:
    """Means over runs, and differences from GRPO of as many updates; ± is over the evaluation's problems, not over seeds."""
    rows = []
    for steps, (arm, title) in itertools.product((0, TRAINED, LONG), TITLES.items()):
        own, base = of_arm(runs, arm, steps), of_arm(runs, "grpo", steps or TRAINED)
        if not own:
            continue
        means = [over_problems(own, accuracy), over_problems(own, digits)]
        row = [title, str(steps), str(len(own)), *(f"{mean:.1f} ± {half:.1f}" for mean, half in means)]
        row += [f"{statistics.mean(map(tokens, own)):.0f}", f"{moved(own):.1f}" if steps else "0"]
        for (mean, half), read in zip(means, (accuracy, digits), strict=True):
            of_base, half_of_base = over_problems(base, read) if base and arm != "grpo" else (mean, math.nan)
            half = math.hypot(half, half_of_base)
            row.append("–" if math.isnan(half) else f"{mean - of_base:+.1f} ± {half:.1f}")
        rows.append(row)
    header = ["arm", "steps", "seeds", "right, %", "digits right, %", "tokens", "KL, nats"]
    return tables.table([*header, "Δ right, points", "Δ digits, points"], rows)


def over_problems(runs: list[Run], read: Callable[[Run], float]) -> tuple[float, float]:
    r"""Mean of a share in percent, and half its 95 % interval over the problems of all runs' evaluations.

    1.96 √(p (1 − p) / n) is the interval of shares that are 0 or 1, and at least that of shares in between, as a response's
    share of right digits is.

    Example:
        >>> run = {"settings": {"test": 100}, "evaluation": {"accuracy": 0.5}}
        >>> [round(value, 2) for value in over_problems([run], accuracy)]
        [50.0, 9.8]
    """
    share = statistics.mean(map(read, runs)) / 100
    count = sum(run["settings"]["test"] for run in runs)
    return 100 * share, 196 * math.sqrt(share * (1 - share) / count)


COMMAND = Command(BED, arm_settings, table, tuple(TITLES), TRAINED, TABLE)


def main() -> None:
    COMMAND.main(__doc__)


if __name__ == "__main__":
    main()
