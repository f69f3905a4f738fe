"""Credit by shaped returns: what is still to be gained from a token on, minus the price of the tokens still to come."""

from __future__ import annotations

import numpy as np
import torch

from l2t_verl.credit.episode import returns_to_go
from l2t_verl.credit.groups import outcome_advantages
from l2t_verl.credit.inputs import check_rollouts, row_blocks
from l2t_verl.credit.length_price import LengthPrice, length_price


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
    length_cost_for: str = "correct",
    std_floor: float = 0.05,
    norm_by_std: bool = True,
    epsilon: float = 1e-6,
    session: np.ndarray | None = None,
) -> torch.Tensor:
    r"""A_{i,t} = Â^out_i + α (G_{i,t} − m_i) / max(s, s_floor).

    G_{i,t} = Σ_{j ≥ k(t)} r^prg_{i,j} − P_{i,t} for an episode's token, the second term alone in the tail, with the price
    P_{i,t} = (λ/L) n_{i,≥t} of the tokens still to come (of all rollouts or the correct ones: see `LengthPrice`). The
    gains telescope, so the first term is the potential difference J_K − J_{k−1} (minus penalties) and does not depend on how
    the text is cut. m_i is the mean over the tokens of the group's other rollouts, so the baseline does not depend on the
    action: of G's first term over all of them, minus that of P over those that are charged. s is the population standard
    deviation of G over the group's tokens. A group of one has m = 0 and s = 1; a mean over nothing is 0.

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
        ValueError: see `check_rollouts` and `length_price`.

    Example:
        >>> shaped_advantages(
        ...     torch.tensor([0.0]), torch.tensor([[0.25, 0.5]]), torch.tensor([[0, 1, -1]]), torch.ones(1, 3),
        ...     torch.zeros(1, 3), np.array(["a"], dtype=object), alpha=1.0, max_length=4, length_cost=0.4,
        ...     length_cost_for="all")
        tensor([[ 0.4500,  0.3000, -0.1000]])
    """
    rollouts = check_rollouts(outcome, process, episode_ids, response_mask, old_log_probs, index, session)
    result = outcome_advantages(outcome, index, norm_by_std=norm_by_std, epsilon=epsilon, session=session)
    if alpha == 0:
        return result.unsqueeze(-1) * response_mask
    potential = torch.nn.functional.pad(returns_to_go(rollouts.process, 1.0), (1, 0))
    price = length_price(rollouts, length_cost, length_cost_for, max_length)
    counts = rollouts.counts.sum(dim=1)
    gains = (rollouts.counts * potential).sum(dim=1)
    baseline = rollouts.others_mean(gains, counts)

    sums = gains - price.of_rows()
    count = rollouts.per_group(counts).clamp_min(1.0)
    mean = (rollouts.per_group(sums) / count)[rollouts.group]
    own_mean = sums / counts.clamp_min(1.0)
    squares = _row_spread(price, potential, own_mean) + counts * (own_mean - mean).square()
    several = rollouts.sessions_per_group() > 1
    std = torch.where(several, (rollouts.per_group(squares) / count).sqrt(), 1.0).clamp_min(std_floor)
    scale = (alpha / std)[rollouts.group]
    table = result.double()[:, None] + scale[:, None] * (potential - baseline[:, None])
    return price.spread_to_tokens(table, scale, result.dtype)


def _row_spread(price: LengthPrice, potential: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """[B] sums over each row's tokens of the squared distances of G from the row's own mean."""
    rollouts = price.rollouts
    if not price.token.any():  # G is the same for all tokens of a slot
        return (rollouts.counts * (potential - means[:, None]).square()).sum(dim=1)
    spread, whole = torch.zeros_like(means), torch.ones_like(means)
    for rows in row_blocks(rollouts.response_mask):
        mask = rollouts.response_mask[rows] > 0
        values = price.taken_off(potential, whole, rows)
        spread[rows] = values.sub_(means[rows, None]).mul_(mask).square_().sum(dim=1)
    return spread
