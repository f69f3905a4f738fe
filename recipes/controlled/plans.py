"""Which runs there are: arms, the strengths that were tried on validation problems, and the seeds that confirm."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from recipes.controlled.settings import Settings

STARTS = (1, 2)
FRESH_STARTS = (3, 4)  # made after the first two had shown that the start matters, to see whether that holds
TUNING_SEEDS = (0, 1)
SEEDS = tuple(range(100, 110))
FEW = SEEDS[:4]  # each start twice
ACROSS = tuple(range(130, 134))  # of the fresh starts, in turn
MORE = tuple(range(110, 124))  # of the arms that the goal compares: fixed before any of them was run


@dataclass(frozen=True)
class Arm:
    """An arm and its one strength.

    Attributes:
        title: its name in words, as tables and plots have it.
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
    chosen: float | str
    changes: dict[str, Any] = field(default_factory=dict)

    def tree(self, strength: float | str) -> dict[str, Any]:
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
    "grpo": Arm("GRPO, the outcome alone", "grpo", {}, "learning_rate", (1e-4, 2e-4, 4e-4), 2e-4),
    "length_penalty": Arm(
        "length penalty", "l2t", {"credit": {"method": "length_penalty"}}, "credit.length_penalty", (0.1, 0.3, 0.6, 0.9), 0.6
    ),
    "paper": Arm("L2T: the paper's credit", "l2t", {"credit": {"method": "paper"}}, "alpha", (0.2, 0.8, 2.0, 5.0), 2.0),
    "episode": Arm("L2T: own gain", "l2t", {"credit": {"method": "episode"}}, "alpha", (0.2, 0.8, 2.0), 0.8),
    "episode_priced": Arm(
        "L2T: own gain, with a length price",
        "l2t",
        {"credit": {"method": "episode", "length_cost_for": "correct"}},
        "credit.length_cost",
        (1.0, 2.0, 3.0, 4.0),
        2.0,
    ),
    "shaped": Arm(
        "L2T: gain still to come, with a length price",
        "l2t",
        {"credit": {"method": "shaped", "length_cost_for": "correct"}},
        "credit.length_cost",
        (1.0, 2.0, 3.0),
        1.0,
    ),
}


DEFAULT = "guided_charged"  # what the configuration has where nothing is set
BEST = "episode_priced"  # of the L2T arms on validation problems: controls and further arms change one thing in it
MEASURED = ("grpo", BEST, "paper")  # whose reward's and credit's quality is measured too, for one seed of each start
BEST_TREE = ARMS[BEST].tree(ARMS[BEST].chosen)


def _variant(title: str, strength: str, value: float | str, *, estimator: str = "l2t", beta: float | None = None) -> Arm:
    """The best arm with one thing changed (and no penalty, where that would hide the change)."""
    tree = BEST_TREE if beta is None else BEST_TREE | {"beta": beta}
    return Arm(title, estimator, tree if estimator == "l2t" else {}, strength, (), value)


IMMEDIATE = {"beta": 0.0, "credit": {"method": "episode"}}
OTHERS = {
    # further arms
    "gain_only": _variant("no penalty (β = 0)", "beta", 0.0),
    "gain_priced": Arm(
        "no penalty (β = 0), a length price of its own",
        "l2t",
        {"beta": 0.0, "credit": {"method": "episode", "length_cost_for": "correct"}},
        "credit.length_cost",
        (1.0, 2.0, 3.0, 4.0),
        1.0,
    ),
    "smoothed": _variant("J as a smoothed log-prob, no penalty", "gain.kind", "smoothed_logprob", beta=0.0),
    "mrt": Arm(
        "progress of four sampled answers, as MRT has it",
        "l2t",
        IMMEDIATE | {"gain": {"kind": "monte_carlo"}},
        "alpha",
        (),
        0.8,
    ),
    "igpo": Arm("own gain and all later ones, no penalty or price, like IGPO", "l2t", IMMEDIATE, "credit.gamma", (), 1.0),
    "shaped_all": Arm(
        "gain still to come, the price for all responses",
        "l2t",
        {"credit": {"method": "shaped", "length_cost_for": "all"}},
        "credit.length_cost",
        (1.0, 2.0, 4.0),
        1.0,
    ),
    "shaped_free": Arm(
        "gain still to come, no length price",
        "l2t",
        {"credit": {"method": "shaped", "length_cost_for": "correct"}},
        "credit.length_cost",
        (),
        0.0,
    ),
    # controls
    "zero_gains": _variant("control: the length price alone (gains 0, β = 0)", "change", "zero_gains", beta=0.0),
    "shuffled": _variant("control: rewards shuffled among a response's episodes", "change", "shuffled"),
    "random_boundaries": _variant("control: random boundaries", "change", "random_boundaries"),
    "wrong_answer": _variant("control: gain towards a wrong answer", "change", "wrong_answer"),
    "true_labels": _variant("bound: true labels in place of gains", "change", "true_labels", beta=0.0),
    "true_labels_free": Arm("bound: true labels alone, no length price", "l2t", IMMEDIATE, "change", (), "true_labels"),
    "length_factor": _variant(
        "control: the outcome over the length, on every token", "change", "length_factor", estimator="grpo"
    ),
    "kl_in_reward": _variant("control: KL in the reward in place of the penalty", "kl_in_reward", 0.03, beta=0.0),
    "kl_in_reward_less": _variant("control: half of that KL in place of the penalty", "kl_in_reward", 0.015, beta=0.0),
    # one factor at a time
    "all_charged": _variant("the price for all responses", "credit.length_cost_for", "all"),
    "beta_6": _variant("a penalty five times as heavy (β = 6)", "beta", 6.0),
    "episode_penalty": _variant("penalty by episode in place of token", "compression.estimator", "log_ratio_episode"),
    "directional": _variant("penalty along the change of the weights", "compression.estimator", "directional"),
    "alpha_04": _variant("half the weight of the process reward (α = 0.4)", "alpha", 0.4),
    "gamma_1": _variant("own gain and all later ones (γ = 1)", "credit.gamma", 1.0),
}

BRIEF = ("smoothed",)  # of these one seed of each start alone

# The outcome alone, as others reward it
OUTCOMES = {
    "dr_grpo": Arm(
        "Dr. GRPO: not divided by the group's spread, nor by the number of tokens",
        "grpo",
        {},
        "learning_rate",
        (),
        2e-4,
        {"norm_by_std": False, "loss_agg_mode": "seq-mean-token-sum-norm"},
    ),
    "alp": Arm(
        "ALP: a length penalty that grows with a problem's success",
        "l2t",
        {"credit": {"method": "adaptive_length_penalty"}},
        "credit.length_cost",
        (0.5, 1.0, 2.0, 4.0),
        1.0,
    ),
    "overlong": Arm(
        "DAPO's punishment of overlong responses",
        "l2t",
        {"credit": {"method": "overlong"}},
        "credit.length_share",
        (0.2, 0.3, 0.4),
        0.4,
    ),
    "dler": Arm(
        "DLER: a response that is too long is wrong, advantages of the whole batch",
        "l2t",
        {"credit": {"method": "truncation"}},
        "credit.length_share",
        (0.3, 0.4, 0.5),
        0.5,
    ),
    "laser_d": Arm(
        "LASER-D: a bonus within a length that depends on the difficulty",
        "l2t",
        {"credit": {"method": "laser_d"}},
        "credit.length_share",
        (0.1, 0.2, 0.3),
        0.3,
    ),
}

# Further credits, each tuned as the main arms are; off by default until one of them is ahead
CANDIDATES = {
    "critic": Arm(
        "L2T: J as a critic, with a length price",
        "l2t",
        {"beta": 0.0, "credit": {"method": "critic"}},
        "credit.length_cost",
        (3.0, 4.0),
        4.0,
    ),
    "guided_charged": Arm(
        "L2T's default: the critic, guided by own gain",
        "l2t",
        {"gain": {"kind": "smoothed_logprob"}, "credit": {"method": "guided"}},
        "credit.length_cost",
        (4.0,),
        4.0,
    ),
}
# Tried on validation problems alone
TRIED = {
    "guided": Arm(
        "L2T: the critic, guided by own gain, no penalty",
        "l2t",
        {"beta": 0.0, "gain": {"kind": "smoothed_logprob"}, "credit": {"method": "guided"}},
        "credit.length_cost",
        (2.0, 3.0, 4.0),
        4.0,
    ),
}


LONG_STEPS = 240
LONG = {
    f"long_{name}": dataclasses.replace(
        ARMS[name], title=f"{ARMS[name].title}, long", tried=(), changes={"steps": LONG_STEPS}
    )
    for name in ("grpo", "paper", "episode", BEST, "shaped")
}
GUARD = "long_paper_clipped"  # the one credit that is gamed, with the bound that its configuration offers
LONG[GUARD] = Arm(
    "L2T: the paper's credit, its ratio bounded by 1, long",
    "l2t",
    {"alpha": ARMS["paper"].chosen, "credit": {"method": "paper"}},
    "credit.ratio_clip",
    (),
    1.0,
    {"steps": LONG_STEPS},
)
# What the precision of the forwards does: beside the runs of `main` with the same seeds
ROUNDED = {
    f"bfloat16_{name}": dataclasses.replace(
        ARMS[name], title=f"{ARMS[name].title}, in bfloat16", tried=(), changes={"compute": "bfloat16"}
    )
    for name in MEASURED
}
TUNING = {"split": "validation", "test": 600}
# Whether `token_budget` is kept: λ by dual ascent, without a price at first (from above) and with one (from below)
BUDGET = 45  # tokens of a right response, of which the arm writes more without a price
BUDGETS = {
    f"from_{side}": Arm(
        f"a budget of {BUDGET} tokens, from {side}",
        "l2t",
        {"credit": {"method": "episode", "token_budget": float(BUDGET), "length_cost_rate": 0.5}},
        "credit.length_cost",
        (),
        cost,
        {"steps": 120, **TUNING},
    )
    for side, cost in (("above", 0.0), ("below", 10.0))
}
ALL = ARMS | OTHERS | OUTCOMES | CANDIDATES | TRIED | LONG | ROUNDED | BUDGETS


def arm_settings(name: str, seed: int, start: int, strength: float | None = None, **changes: Any) -> Settings:
    """An arm's run at the chosen strength or at another."""
    arm = ALL[name]
    value = arm.chosen if strength is None else strength
    tree, given = arm.tree(value), dict(arm.changes)
    if tree is arm.l2t:
        given[arm.strength] = value
    return Settings(name, seed, start, **({"estimator": arm.estimator, "l2t": tree} | given | changes))


def start_of(seed: int) -> int:
    """The start that a seed trains: in turn."""
    starts = FRESH_STARTS if seed in ACROSS else STARTS
    return starts[seed % len(starts)]


# Where the frontiers of the two arms are drawn again on fresh seeds, beside the chosen strengths
FRONTIER = {"length_penalty": (0.3, 0.9), BEST: (1.0, 4.0)}
ACROSS_ARMS = ("grpo", "length_penalty", "episode", BEST, "critic", "guided_charged")
PLANS: dict[str, list[Settings]] = {
    "one": [arm_settings(name, SEEDS[0], start_of(SEEDS[0])) for name in ("grpo", "length_penalty", BEST)],
    "tuning": [
        arm_settings(name, seed, start_of(seed), strength, **TUNING)
        for name, arm in ALL.items()
        for strength in arm.tried
        for seed in TUNING_SEEDS
    ],
    "starts": [Settings("start", seed, start_of(seed), steps=0, quality=True) for seed in SEEDS[: len(STARTS)]],
    "main": [
        arm_settings(name, seed, start_of(seed), quality=name in MEASURED and seed in SEEDS[: len(STARTS)])
        for seed in SEEDS
        for name in ARMS
    ],
    "frontier": [
        arm_settings(name, seed, start_of(seed), strength)
        for seed in SEEDS
        for name, strengths in FRONTIER.items()
        for strength in strengths
    ],
    "more": [arm_settings(name, seed, start_of(seed)) for seed in MORE for name in ("grpo", BEST, "length_penalty")],
    "across": [
        *(Settings("start", seed, start_of(seed), steps=0) for seed in ACROSS[: len(FRESH_STARTS)]),
        *(arm_settings(name, seed, start_of(seed)) for seed in ACROSS for name in ACROSS_ARMS),
    ],
    "bfloat16": [arm_settings(name, seed, start_of(seed)) for seed in SEEDS[: len(STARTS)] for name in ROUNDED],
    "budget": [arm_settings(name, TUNING_SEEDS[1], start_of(TUNING_SEEDS[1])) for name in BUDGETS],
    "candidates": [arm_settings(name, seed, start_of(seed)) for seed in (*SEEDS, *MORE) for name in CANDIDATES],
    "outcomes": [arm_settings(name, seed, start_of(seed)) for seed in FEW for name in OUTCOMES],
    "others": [
        arm_settings(name, seed, start_of(seed))
        for seed in FEW
        for name in OTHERS
        if name not in BRIEF or seed in SEEDS[: len(STARTS)]
    ],
    "long": [arm_settings(name, seed, start_of(seed)) for seed in SEEDS[: len(STARTS)] for name in LONG],
}
