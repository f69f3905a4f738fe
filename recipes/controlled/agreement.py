"""How far do advantages follow the true labels, by kind of J and by credit? On the bed of parts, before any training.

python -m recipes.controlled.agreement
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes.controlled import bed, loop, parts, scoring, tables
from recipes.controlled.labels import worth
from recipes.controlled.quality import BOOTSTRAPS, correlation
from recipes.controlled.run import made_by, write
from recipes.controlled.sampling import sample
from recipes.controlled.settings import Change, Settings
from recipes.controlled.words import TEXT_KINDS

FILE = Path(__file__).parent / "agreement.json"
PROBLEMS, GROUP, SEED = 60, 8, 0
KINDS = ("probability", "geometric", "mean_logprob", "mean_probability", "smoothed_logprob")
CREDITS: dict[str, dict[str, Any]] = {
    "own gain": {"method": "episode"},
    "own gain, and 0.7 of the next": {"method": "episode", "gamma": 0.7},
    "gain still to come": {"method": "shaped"},
}
OUTCOME, LABELS = "the outcome alone (GRPO)", "bound: true labels in place of gains"


def measure(model: Any, tokenizer: Any, problems: int, seed: int) -> dict[str, Any]:
    """Correlation of a token's advantage with 1 in useful episodes, −1 in mistakes and 0 in needless ones.

    Returns:
        By way, a kind of J's or `OUTCOME` or `LABELS`, and credit: the correlation and its 95 % interval over problems.
    """
    asked = [p for p in itertools.islice(parts.BED.problems("validation", seed), problems) for _ in range(GROUP)]
    torch.manual_seed(seed)
    rollouts = sample(model, tokenizer, asked, limit=bed.LIMIT)

    def of(
        kind: str, credits: dict[str, dict[str, Any]], change: Change = "", estimator: Any = "l2t"
    ) -> dict[str, list[float]]:
        settings = [
            Settings("", seed, 1, estimator, {"beta": 0.0, "gain": {"kind": kind}, "credit": credit}, limit=bed.LIMIT)
            for credit in credits.values()
        ]
        scored = scoring.score(model, model, tokenizer, rollouts, loop.method(settings[0]), change=change)
        truths = [
            np.repeat([worth(label) for label in scoring.labels_of(rollout, ends, tokenizer)], np.diff([0, *ends]))
            for rollout, ends in zip(rollouts, scored.ends, strict=True)
        ]
        return {name: _followed(each, scored, truths) for name, each in zip(credits, settings, strict=True)}

    alone = {"own gain": CREDITS["own gain"]}
    found = {OUTCOME: of("geometric", alone, estimator="grpo"), LABELS: of("geometric", alone, "true_labels")}
    return found | {kind: of(kind, CREDITS) for kind in KINDS}


def _followed(settings: Settings, scored: scoring.Scored, truths: list[np.ndarray]) -> list[float]:
    """The correlation, over tokens in episodes, and its 95 % interval by a bootstrap over problems."""
    advantages = loop.compute_advantages(settings, loop.method(settings), scored).double().numpy()
    values = [row[: len(truth)] for row, truth in zip(advantages, truths, strict=True)]
    firsts = np.arange(0, len(truths), GROUP)

    def among(chosen: np.ndarray) -> float:
        rows = [first + i for first in chosen for i in range(GROUP)]
        return correlation(np.concatenate([values[i] for i in rows]), np.concatenate([truths[i] for i in rows]))

    generator = np.random.default_rng(0)
    drawn = [among(generator.choice(firsts, len(firsts))) for _ in range(BOOTSTRAPS)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return [among(firsts), float(low), float(high)]


def table(found: dict[str, Any]) -> str:
    """Kinds of J by credits."""
    text = lambda cell: "{:.2f} ({:.2f} to {:.2f})".format(*cell) if cell else ""  # noqa: E731
    rows = [
        [TEXT_KINDS.get(way, way), *(text(of_credit.get(name)) for name in CREDITS)]
        for way, of_credit in found["correlation"].items()
    ]
    return tables.table(["J", *CREDITS], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", type=Path, default=parts.START)
    parser.add_argument("--problems", type=int, default=PROBLEMS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--file", type=Path, default=FILE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = bed.loaded(arguments.start)
    found = measure(model, tokenizer, arguments.problems, arguments.seed)
    about = {"problems": arguments.problems, "group": GROUP, "seed": arguments.seed, "made by": made_by("cpu")}
    write(arguments.file, about | {"correlation": found})
    print(table({"correlation": found}))


if __name__ == "__main__":
    main()
