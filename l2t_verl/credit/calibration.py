"""How far a critic's values can be believed: reliability, and whether they tell right from wrong rollouts."""

from __future__ import annotations

import torch

BINS = 10


def calibration(values: torch.Tensor, outcome: torch.Tensor, episodes: torch.Tensor) -> dict[str, float]:
    """Measure a critic on rollouts that it has not seen.

    Args:
        values: [B, K+1] V_0 … V_K in [0, 1].
        outcome: [B] outcome in [0, 1].
        episodes: [B] K_i; rows without episodes are left out.

    Returns:
        `reliability`: Σ_b n_b/n |mean V − mean outcome| over ten bins of V of all states, 0 at best; `auc_start`,
        `auc_middle`, `auc_end`: how often a right rollout (outcome above 0) has the higher V than a wrong one, before the
        first episode, after half of them (rounded up) and after the last. NaN where there is nothing to compare.

    Example:
        >>> calibration(torch.tensor([[0.5, 1.0], [0.5, 0.0]]), torch.tensor([1.0, 0.0]), torch.tensor([1, 1]))
        {'reliability': 0.0, 'auc_start': 0.5, 'auc_middle': 1.0, 'auc_end': 1.0}
    """
    has = episodes > 0
    values, outcome, episodes = values[has].double(), outcome[has].double(), episodes[has]
    live = torch.arange(values.shape[1]) <= episodes[:, None]
    states, results = values[live], outcome[:, None].expand(live.shape)[live]
    bins = (states * BINS).long().clamp(0, BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add(0, bins, states - results)
    found = {"reliability": gaps.abs().sum().item() / len(states) if len(states) else float("nan")}
    for name, where in (("start", 0 * episodes), ("middle", (episodes + 1) // 2), ("end", episodes)):
        found[f"auc_{name}"] = auc(values.gather(1, where[:, None])[:, 0], outcome > 0)
    return found


def auc(values: torch.Tensor, right: torch.Tensor) -> float:
    """Area under the ROC curve: the share of the pairs of a right and a wrong one in which the right one's value is higher.

    Args:
        values: [N]; ties count half.
        right: [N] bool.

    Returns:
        In [0, 1]; NaN where all are right or all wrong.

    Example:
        >>> auc(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([True, False, True]))
        1.0
    """
    _, level, sizes = values.unique(return_inverse=True, return_counts=True)
    ranks = (sizes.cumsum(0) - (sizes - 1) / 2)[level].double()  # of equal values the mean rank
    positive = int(right.sum())
    pairs = positive * (len(values) - positive)
    return (ranks[right].sum().item() - positive * (positive + 1) / 2) / pairs if pairs else float("nan")
