"""Does the reward rank useful steps above needless ones, and does the credit hand that on?"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import rankdata

from l2t_verl import gain
from l2t_verl.config import load_config
from l2t_verl.packing import Branch, PackedRow
from recipes.controlled import loop, scoring
from recipes.controlled.labels import worth
from recipes.controlled.sampling import Rollout, sample
from recipes.controlled.settings import FORCING, Settings
from recipes.controlled.task import MODULUS, problems
from recipes.controlled.words import KINDS, REMOVABLE, USEFUL

BETA = 1.2
GROUPS, GROUP = 60, 8
BOOTSTRAPS = 300
CREDITS: dict[str, tuple[Literal["grpo", "l2t"], dict[str, Any]]] = {
    "grpo": ("grpo", {}),
    "length penalty": ("l2t", {"credit": {"method": "length_penalty", "length_penalty": 0.6}}),
    "paper": ("l2t", {"credit": {"method": "paper"}}),
    "episode": ("l2t", {"credit": {"method": "episode"}}),
    "episode, γ = 1": ("l2t", {"credit": {"method": "episode", "gamma": 1.0}}),
    "episode, λ = 2": ("l2t", {"credit": {"method": "episode", "length_cost": 2.0}}),
    "shaped": ("l2t", {"credit": {"method": "shaped"}}),
    "shaped, λ = 1": ("l2t", {"credit": {"method": "shaped", "length_cost": 1.0}}),
}


@dataclass(frozen=True)
class Episodes:
    """Values of all episodes of many rollouts, one entry for each.

    Attributes:
        labels: what they are.
        problems: number of the problem, for intervals over problems.
        known: whether the asked value was rightly stated before the episode.
    """

    labels: np.ndarray
    problems: np.ndarray
    known: np.ndarray


def quality(
    settings: Settings, model: torch.nn.Module, reference: torch.nn.Module, tokenizer: Any, groups: int = GROUPS
) -> dict[str, Any]:
    """Reward and credit quality of a policy on validation problems."""
    asked = [p for p in itertools.islice(problems("validation", 1), groups) for _ in range(GROUP)]
    torch.manual_seed(settings.seed)
    rollouts = sample(model, tokenizer, asked, limit=settings.limit)
    config = load_config({"gain": FORCING, "beta": BETA})
    scored = scoring.score(model, reference, tokenizer, rollouts, config)
    labels = [scoring.labels_of(rollout, ends, tokenizer) for rollout, ends in zip(rollouts, scored.ends, strict=True)]
    known = [_known(rollout, ends, tokenizer) for rollout, ends in zip(rollouts, scored.ends, strict=True)]
    episodes = Episodes(
        np.array([label for row in labels for label in row]),
        np.repeat(np.arange(len(rollouts)) // GROUP, [len(row) for row in labels]),
        np.array([value for row in known for value in row[:-1]], dtype=bool),
    )
    cost = _of_episodes(scored.penalty, scored.ends)
    found: dict[str, Any] = {"episodes": len(cost), "penalty": _aucs(-cost, episodes)}
    for kind, scores in all_scores(model, tokenizer, rollouts, scored.ends).items():
        gains = _of_episodes(gain.fitting_gains(scores), scored.ends)
        final = scores[torch.arange(len(rollouts)), torch.tensor([len(ends) for ends in scored.ends])]
        found[kind] = {
            "gain": _aucs(gains, episodes),
            "process reward": _aucs(gains - BETA * cost, episodes),
            "sd(βC)/sd(g)": float(BETA * cost.std() / max(gains.std(), 1e-12)),
            "J_K and correctness": _within_groups(final.numpy(), scored.outcome.numpy(), GROUP),
            "gain by label": {label: float(gains[episodes.labels == label].mean()) for label in np.unique(episodes.labels)},
        }
    found["credit"] = {
        name: credit_quality(
            Settings(name, 0, 0, estimator=estimator, l2t=tree, group=GROUP, limit=settings.limit), scored, labels, known
        )
        for name, (estimator, tree) in CREDITS.items()
    }
    return found


def all_scores(
    model: torch.nn.Module, tokenizer: Any, rollouts: list[Rollout], ends: list[list[int]]
) -> dict[str, torch.Tensor]:
    """[B, K+1] scores of each kind, padded with the last, from one reading; `contrastive`: p(a*) among all ten digits."""
    template = gain.ForcingTemplate(FORCING["forcing_suffix"], FORCING["closing"], think_close=FORCING["think_close"])
    rows = []
    for rollout, of_row in zip(rollouts, ends, strict=True):
        branches = []
        for digit in map(str, range(MODULUS)):
            targets = gain.answer_targets(tokenizer, rollout.prompt, rollout.response, of_row, digit, template)
            branches += [
                Branch(len(rollout.prompt) + end, list(target.suffix_ids), list(target.answer_ids))
                for end, target in zip([0, *of_row], targets, strict=True)
            ]
        rows.append(PackedRow([*rollout.prompt, *rollout.response], branches))
    width = max(map(len, ends)) + 1
    found = {kind: torch.zeros(len(rollouts), width, dtype=torch.float64) for kind in KINDS}
    generator = np.random.default_rng(0)
    for i, (rollout, answers) in enumerate(zip(rollouts, scoring.forward(model, rows).answers, strict=True)):
        log_probs = torch.stack(answers).reshape(MODULUS, len(ends[i]) + 1, -1)
        lengths = torch.full((log_probs.shape[1],), log_probs.shape[2])
        right = log_probs[int(rollout.problem.answer)]
        of_kind = {
            kind: gain.reduce_log_probs(right, lengths, kind=kind) for kind in ("geometric", "probability", "mean_logprob")
        }
        of_kind["monte_carlo"] = (
            torch.from_numpy(generator.binomial(4, of_kind["probability"].clamp(0, 1).double().numpy())) / 4
        )
        of_kind["contrastive"] = of_kind["probability"] / log_probs.sum(dim=2).exp().sum(dim=0)
        for kind, values in of_kind.items():
            found[kind][i, : len(values)] = values
            found[kind][i, len(values) :] = values[-1]
    return found


def credit_quality(
    settings: Settings, scored: scoring.Scored, labels: list[list[str]], known: list[list[bool]]
) -> dict[str, float]:
    """How token advantages follow the labels.

    Returns:
        `correlation`: of a token's advantage with 1 in useful episodes, −1 in mistakes, 0 in removable ones. `within`: the
        same after each response's mean is taken off, which an outcome-only advantage cannot have. `exploding`: share of
        tokens with |A| > 5. `flipped`: see `advantage_health`. `stop`: mean advantage of closing the thought, where the
        asked value is known, minus that of opening another episode there.
    """
    advantages = loop.compute_advantages(settings, loop.method(settings), scored).double()
    values, truths, within = [], [], []
    stop: list[float] = []
    further: list[float] = []
    for row, ends in enumerate(scored.ends):
        if not ends:
            continue
        lengths = np.diff([0, *ends])
        truth = np.repeat([worth(label) for label in labels[row]], lengths)
        own = advantages[row, : ends[-1]].numpy()
        values.append(own)
        within.append(own - own.mean())
        truths.append(truth)
        for end, is_known in zip([0, *ends], known[row], strict=True):
            if is_known and end < int(scored.mask[row].sum()):
                (stop if end == ends[-1] else further).append(float(advantages[row, end]))
    a, w, y = (np.concatenate(parts) for parts in (values, within, truths))
    health = loop.advantage_health(advantages, scored.process, scored.episode_ids, scored.mask)
    return {
        "correlation": correlation(a, y),
        "within": correlation(w, y),
        "exploding": health["clipped_fraction"],
        "flipped": health["sign_flip_fraction"],
        "stop": float(np.mean(stop) - np.mean(further)) if stop and further else float("nan"),
    }


def auc(values: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive one's value is above a negative one's, ties counted half.

    Example:
        >>> auc(np.array([3.0, 1.0, 2.0]), np.array([True, False, False]), np.array([False, True, True]))
        1.0
    """
    above, below = values[positive], values[negative]
    if not len(above) or not len(below):
        return float("nan")
    ranks = rankdata(np.concatenate([above, below]))[: len(above)]
    return float((ranks.sum() - len(above) * (len(above) + 1) / 2) / (len(above) * len(below)))


def interval(values: np.ndarray, positive: np.ndarray, negative: np.ndarray, owners: np.ndarray) -> tuple[float, float]:
    """95 % interval of `auc` by a bootstrap over `owners`."""
    generator = np.random.default_rng(0)
    names = np.unique(owners)
    of_owner = [np.flatnonzero(owners == name) for name in names]
    draws = []
    for _ in range(BOOTSTRAPS):
        rows = np.concatenate([of_owner[i] for i in generator.integers(0, len(names), len(names))])
        draws.append(auc(values[rows], positive[rows], negative[rows]))
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _aucs(values: np.ndarray, episodes: Episodes) -> dict[str, Any]:
    """Useful against removable episodes, all and before the asked value is known; useful against mistakes; each kind."""
    useful = np.isin(episodes.labels, list(USEFUL))
    removable = np.isin(episodes.labels, list(REMOVABLE))
    before = ~episodes.known
    return {
        "useful over removable": auc(values, useful, removable),
        "interval": interval(values, useful, removable, episodes.problems),
        "before the answer is known": auc(values, useful & before, removable & before),
        "useful over mistakes": auc(values, useful, episodes.labels == "mistake"),
        "by label": {label: auc(values, useful, episodes.labels == label) for label in sorted(REMOVABLE)},
    }


def _of_episodes(table: torch.Tensor, ends: list[list[int]]) -> np.ndarray:
    return np.concatenate([row[: len(of_row)].numpy() for row, of_row in zip(table, ends, strict=True)])


def _known(rollout: Rollout, ends: list[int], tokenizer: Any) -> list[bool]:
    """Whether the asked value was rightly stated by each boundary b_0 … b_K."""
    wanted = f"{rollout.problem.query}={rollout.problem.answer}"
    texts = [tokenizer.decode(piece) for piece in scoring.pieces(rollout, ends)]
    return list(itertools.accumulate([False, *(wanted in text for text in texts)], lambda a, b: a or b))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else float("nan")


def _within_groups(values: np.ndarray, truths: np.ndarray, group: int) -> float:
    """Correlation after each group's means are taken off."""
    centred = [table - table.mean(axis=1, keepdims=True) for table in (values.reshape(-1, group), truths.reshape(-1, group))]
    return correlation(centred[0].ravel(), centred[1].ravel())
