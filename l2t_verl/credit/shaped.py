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
    length_cost_for: str = "all",
    std_floor: float = 0.05,
    norm_by_std: bool = True,
    epsilon: float = 1e-6,
    session: np.ndarray | None = None,
) -> torch.Tensor:
    r"""A_{i,t} = Â^out_i + α (G_{i,t} − m_i) / max(s, s_floor).

    G_{i,t} = Σ_{j ≥ k(t)} r^prg_{i,j} − P_{i,t} for an episode's token, the second term alone in the tail, with the price
    P_{i,t} = (λ/L) n_{i,≥t} where rollout i is charged and 0 where it is not; n_{i,≥t} counts the sampled tokens from t on.
    The gains telescope, so the first term is the potential difference J_K − J_{k−1} (minus penalties) and does not depend on
    how the text is cut. m_i is the mean over the tokens of the group's other rollouts, so the baseline does not depend on
    the action: of G's first term over all of them, minus that of P over those that are charged. s is the population
    standard deviation of G over the group's tokens. A group of one has m = 0 and s = 1; a mean over nothing is 0.

    Charged are all rollouts, or the correct ones (r^out > 0) that have another correct one in their group to be compared
    with: a rollout that failed is then not told to have been too long, and being wrong saves nobody the price.

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
        length_cost_for: which rollouts are charged, `all` or `correct`.
        std_floor: s_floor > 0, in units of J.
        norm_by_std: divide the outcome part by the group's standard deviation.
        epsilon: ε of the outcome part.
        session: see `outcome_advantages`; the rows of one session are one rollout.

    Returns:
        [B, T] advantages, 0 outside the mask, in the precision of `outcome`.

    Raises:
        ValueError: see `check_rollouts`; or L < 1, λ < 0, an unknown `length_cost_for`.

    Example:
        >>> shaped_advantages(
        ...     torch.tensor([0.0]), torch.tensor([[0.25, 0.5]]), torch.tensor([[0, 1, -1]]), torch.ones(1, 3),
        ...     torch.zeros(1, 3), np.array(["a"], dtype=object), alpha=1.0, max_length=4, length_cost=0.4)
        tensor([[ 0.4500,  0.3000, -0.1000]])
    """
    if max_length < 1 or not length_cost >= 0:
        raise ValueError(f"max_length must be at least 1 and length_cost at least 0; got {max_length}, {length_cost}")
    if length_cost_for not in ("all", "correct"):
        raise ValueError(f"length_cost_for must be all or correct, got {length_cost_for!r}")
    rollouts = check_rollouts(outcome, process, episode_ids, response_mask, old_log_probs, index, session)
    result = outcome_advantages(outcome, index, norm_by_std=norm_by_std, epsilon=epsilon, session=session)
    if alpha == 0:
        return result.unsqueeze(-1) * response_mask
    potential = torch.nn.functional.pad(returns_to_go(rollouts.process, 1.0), (1, 0))
    charged = _charged(rollouts, only_correct=length_cost_for == "correct")
    price = charged * (length_cost / max_length)  # [B], of a token still to come
    counts = rollouts.counts.sum(dim=1)
    gains = (rollouts.counts * potential).sum(dim=1)
    prices = price * counts * (counts + 1) / 2  # n_{≥t} runs through T … 1
    baseline = rollouts.others_mean(gains, counts) - charged * rollouts.others_mean(prices, counts * charged)

    sums, spread = gains - prices, _row_spread(rollouts, potential, price, gains - prices)
    count = rollouts.per_group(counts).clamp_min(1.0)
    mean = (rollouts.per_group(sums) / count)[rollouts.group]
    squares = spread + counts * (sums / counts.clamp_min(1.0) - mean).square()
    several = rollouts.sessions_per_group() > 1
    std = torch.where(several, (rollouts.per_group(squares) / count).sqrt(), 1.0).clamp_min(std_floor)
    scale = (alpha / std)[rollouts.group][:, None]
    table = result.double()[:, None] + scale * (potential - baseline[:, None])
    if length_cost == 0:
        return rollouts.spread_to_tokens(table, result.dtype)
    advantages = torch.empty(response_mask.shape, dtype=result.dtype, device=table.device)
    for rows in row_blocks(response_mask):
        values = _returns(rollouts, table, scale[:, 0] * price, rows)
        advantages[rows] = to_precision(values, result.dtype)
    return advantages


def _charged(rollouts: Rollouts, *, only_correct: bool) -> torch.Tensor:
    """[B] 1 for the rows whose tokens have a price, else 0."""
    if not only_correct:
        return torch.ones_like(rollouts.outcome)
    final, last = rollouts.last_rows()
    correct = (rollouts.outcome > 0)[final]
    in_group = rollouts.per_group((correct & last).double())[rollouts.group]
    return (correct & (in_group > 1)).double()


def _returns(rollouts: Rollouts, table: torch.Tensor, price: torch.Tensor, rows: slice) -> torch.Tensor:
    """[rows, T] table's entry of each token minus the row's price of the tokens from it on; 0 outside the mask."""
    mask = rollouts.response_mask[rows] > 0
    values = torch.nn.functional.pad(table[rows], (0, 1)).gather(1, rollouts.slots_of(rows))
    remaining = mask.flip(1).cumsum(1).flip(1).mul_(mask).double()
    return values.sub_(remaining.mul_(price[rows, None]))


def _row_spread(rollouts: Rollouts, potential: torch.Tensor, price: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
    """[B] sums over each row's tokens of the squared distances of G from the row's own mean."""
    means = sums / rollouts.counts.sum(dim=1).clamp_min(1.0)
    if not price.any():  # G is the same for all tokens of a slot
        return (rollouts.counts * (potential - means[:, None]).square()).sum(dim=1)
    spread = torch.zeros_like(means)
    for rows in row_blocks(rollouts.response_mask):
        mask = rollouts.response_mask[rows] > 0
        values = _returns(rollouts, potential, price, rows)
        spread[rows] = values.sub_(means[rows, None]).mul_(mask).square_().sum(dim=1)
    return spread
