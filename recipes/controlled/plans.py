"""Which runs there are: arms, the strengths that were tried on validation problems, and the seeds that confirm."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from recipes.controlled.settings import Settings

STARTS = (1, 2)
TUNING_SEEDS = (0, 1)
SEEDS = tuple(range(100, 110))
FEW = SEEDS[:4]


@dataclass(frozen=True)
class Arm:
    """An arm and its one strength.

    Attributes:
        title: how tables and plots name it.
        estimator: verl's `adv_estimator`.
        l2t: its configuration, without the strength.
        strength: path of the strength below `algorithm.l2t`, or a field of `Settings`.
        tried: values tried on validation problems.
        chosen: the one that is confirmed.
        changes: further fields of `Settings`.
    """

    title: str
    estimator: str
    l2t: dict[str, Any]
    strength: str
    tried: tuple[float, ...]
    chosen: float
    changes: dict[str, Any] = field(default_factory=dict)

    def tree(self, strength: float) -> dict[str, Any]:
        """`algorithm.l2t` at a strength."""
        path = self.strength.split(".")
        if path[0] in {f.name for f in dataclasses.fields(Settings)}:
            return self.l2t
        tree = {name: dict(value) if isinstance(value, dict) else value for name, value in self.l2t.items()}
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = strength
        return tree


ARMS = {
    "grpo": Arm("GRPO (outcome only)", "grpo", {}, "learning_rate", (2e-4, 5e-4, 1e-3), 5e-4),
    "length_penalty": Arm(
        "length penalty", "l2t", {"credit": {"method": "length_penalty"}}, "credit.length_penalty", (0.1, 0.3, 0.6), 0.3
    ),
    "paper": Arm("L2T `paper`", "l2t", {"credit": {"method": "paper"}}, "alpha", (0.2, 0.8, 2.0), 0.8),
    "episode": Arm("L2T `episode`", "l2t", {"credit": {"method": "episode"}}, "alpha", (0.2, 0.8, 2.0), 0.8),
    "shaped": Arm("L2T `shaped`", "l2t", {"credit": {"method": "shaped"}}, "credit.length_cost", (0.0, 1.0, 4.0), 1.0),
}


def arm_settings(name: str, seed: int, start: int, strength: float | None = None, **changes: Any) -> Settings:
    """An arm's run at the chosen strength or at another."""
    arm = (ARMS | OTHERS)[name]
    value = arm.chosen if strength is None else strength
    tree, given = arm.tree(value), dict(arm.changes)
    if tree is arm.l2t:
        given[arm.strength] = value
    return Settings(name, seed, start, **({"estimator": arm.estimator, "l2t": tree} | given | changes))


OTHERS: dict[str, Arm] = {}


def start_of(seed: int) -> int:
    """The start that a seed trains: both in turn."""
    return STARTS[seed % len(STARTS)]


TUNING = {"split": "validation", "test": 600}
PLANS: dict[str, list[Settings]] = {
    "one": [arm_settings(name, SEEDS[0], start_of(SEEDS[0])) for name in ("grpo", "length_penalty", "shaped")],
    "tuning": [
        arm_settings(name, seed, start_of(seed), strength, **TUNING)
        for name, arm in ARMS.items()
        for strength in arm.tried
        for seed in TUNING_SEEDS
    ],
    "main": [arm_settings(name, seed, start_of(seed), quality=seed in FEW) for seed in SEEDS for name in ARMS],
}
