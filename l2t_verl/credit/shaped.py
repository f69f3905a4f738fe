"""Credit by shaped returns: what is still to be gained from a token on, minus the price of the tokens still to come."""

from __future__ import annotations

import numpy as np
import torch

from l2t_verl.credit.episode import returns_to_go
from l2t_verl.credit.groups import outcome_advantages
from l2t_verl.credit.inputs import Rollouts, check_rollouts, row_blocks, to_precision


def shaped_advantages(
    outcome: torch.Tensor,
    process: torch.Tensor,
    episode_ids: torch.Tensor,
    response_mask: torch.Tensor,
    old_log_probs: torch.Tensor,
    index: np.ndarray,
    *,
    alpha: float,
    max_length: int,
    length_cost: float = 0.0,
    std_floor: float = 0.05,
    norm_by_std: bool = True,
    epsilon: float = 1e-6,
    session: np.ndarray | None = None,
) -> torch.Tensor:
    r"""A_{i,t} = Â^out_i + α (G_{i,t} − m_i) / max(s, s_floor).

    G_{i,t} = Σ_{j ≥ k(t)} r^prg_{i,j} − (λ/L) n_{i,≥t} for an episode's token, the second term alone in the tail;
    n_{i,≥t} counts the sampled tokens from t on. The gains telescope, so the first is the potential difference J_K − J_{k−1}
    (minus penalties) and does not depend on how the text is cut. m_i is the mean of G over the tokens of the group's other
    rollouts, so the baseline does not depend on the action; s is the population standard deviation over all of them. A
    group of one has m = 0 and s = 1; m is 0 where the other rollouts are empty.

    Args:
        outcome: [B] outcome rewards.
        process: [B, K] episode rewards r^prg, padded with 0, in units of J.
        episode_ids: [B, T] episode of each token, −1 in the tail.
        response_mask: [B, T] 1 for sampled tokens.
        old_log_probs: [B, T] not used; all credits take the same arguments.
        index: [B] NumPy object array, the group of each row.
        alpha: α, weight of the shaped part; with 0 the result is verl's GRPO, bit for bit.
        max_length: L, the longest response allowed, in tokens.
        length_cost: λ ≥ 0, the price of a response of length L, in units of J.
        std_floor: s_floor > 0, in units of J.
        norm_by_std: divide the outcome part by the group's standard deviation.
        epsilon: ε of the outcome part.
        session: see `outcome_advantages`; the rows of one session are one rollout.

    Returns:
        [B, T] advantages, 0 outside the mask, in the precision of `outcome`.

    Raises:
        ValueError: see `check_rollouts`; or L < 1, λ < 0.

    Example:
        >>> shaped_advantages(
        ...     torch.tensor([0.0]), torch.tensor([[0.25, 0.5]]), torch.tensor([[0, 1, -1]]), torch.ones(1, 3),
        ...     torch.zeros(1, 3), np.array(["a"], dtype=object), alpha=1.0, max_length=4, length_cost=0.4)
        tensor([[ 0.4500,  0.3000, -0.1000]])
    """
    if max_length < 1 or not length_cost >= 0:
        raise ValueError(f"max_length must be at least 1 and length_cost at least 0; got {max_length}, {length_cost}")
    rollouts = check_rollouts(outcome, process, episode_ids, response_mask, old_log_probs, index, session)
    result = outcome_advantages(outcome, index, norm_by_std=norm_by_std, epsilon=epsilon, session=session)
    if alpha == 0:
        return result.unsqueeze(-1) * response_mask
    potential = torch.nn.functional.pad(returns_to_go(rollouts.process, 1.0), (1, 0))
    price = length_cost / max_length
    counts = rollouts.counts.sum(dim=1)
    sums, spread = _row_statistics(rollouts, potential, price)
    group, sizes = rollouts.group, rollouts.sessions_per_group()
    others_count = rollouts.per_group(counts)[group] - rollouts.per_session(counts)
    others_sum = rollouts.per_group(sums)[group] - rollouts.per_session(sums)
    baseline = torch.where(others_count > 0, others_sum / others_count.clamp_min(1.0), 0.0)

    count = rollouts.per_group(counts).clamp_min(1.0)
    mean = (rollouts.per_group(sums) / count)[group]
    squares = spread + counts * (sums / counts.clamp_min(1.0) - mean).square()
    std = torch.where(sizes > 1, (rollouts.per_group(squares) / count).sqrt(), 1.0).clamp_min(std_floor)
    scale = (alpha / std)[group][:, None]
    table = result.double()[:, None] + scale * (potential - baseline[:, None])
    if price == 0:
        return rollouts.spread_to_tokens(table, result.dtype)
    advantages = torch.empty(response_mask.shape, dtype=result.dtype, device=table.device)
    for rows in row_blocks(response_mask):
        values = _returns(rollouts, table, scale * price, rows)
        advantages[rows] = to_precision(values, result.dtype)
    return advantages


def _returns(rollouts: Rollouts, table: torch.Tensor, price: torch.Tensor | float, rows: slice) -> torch.Tensor:
    """[rows, T] table's entry of each token minus the price of the tokens from it on; 0 outside the mask."""
    mask = rollouts.response_mask[rows] > 0
    values = torch.nn.functional.pad(table[rows], (0, 1)).gather(1, rollouts.slots_of(rows))
    remaining = mask.flip(1).cumsum(1).flip(1).mul_(mask).double()
    return values.sub_(remaining.mul_(price[rows] if isinstance(price, torch.Tensor) else price))


def _row_statistics(rollouts: Rollouts, potential: torch.Tensor, price: float) -> tuple[torch.Tensor, torch.Tensor]:
    """[B] sums of G over each row's tokens, and of its squared distances from the row's own mean."""
    counts = rollouts.counts
    tokens = counts.sum(dim=1).clamp_min(1.0)
    if price == 0:  # G is the same for all tokens of a slot
        sums = (counts * potential).sum(dim=1)
        return sums, (counts * (potential - (sums / tokens)[:, None]).square()).sum(dim=1)
    sums, spread = torch.zeros_like(tokens), torch.zeros_like(tokens)
    for rows in row_blocks(rollouts.response_mask):
        values = _returns(rollouts, potential, price, rows)
        sums[rows] = values.sum(dim=1)
        mask = rollouts.response_mask[rows] > 0
        spread[rows] = values.sub_((sums[rows] / tokens[rows])[:, None]).mul_(mask).square_().sum(dim=1)
    return sums, spread
