"""Credit by shaped returns: what is still to be gained from a token on, minus the price of the tokens still to come."""

from __future__ import annotations

import numpy as np
import torch

from l2t_verl.credit.episode import returns_to_go
from l2t_verl.credit.groups import outcome_advantages, smallest_spread
from l2t_verl.credit.inputs import check_rollouts
from l2t_verl.credit.length_price import length_price


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
    r"""Token advantages A_{i,t} = Â^out_i + α [(G_{i,t} − m_i) / max(s, s_min) − (λ/L) (n_{i,≥t} − mean_j n_{j,≥t})].

    G_{i,t} = Σ_{j ≥ k(t)} r^prg_{i,j} for an episode's token, and 0 in the tail. The gains telescope, so G is the potential
    difference J_K − J_{k−1} (minus penalties) and does not depend on how the text is cut. m_i is the mean of G over the
    tokens of the group's other rollouts, so that the baseline does not depend on the action; s is the population standard
    deviation of G over the group's tokens, and s_min is s_floor, or more where no rollout is right (see
    `smallest_spread`). A group of one has m = 0 and s = 1; a mean over nothing is 0.

    The last term is the price of the n_{i,≥t} tokens still to come. All rollouts pay it, or the correct ones, compared with
    the group's other charged rollouts at the same position (see `LengthPrice`). It is not divided by a spread, so it is
    linear in λ.

    Args:
        outcome: [B] outcome rewards.
        process: [B, K] episode rewards r^prg, padded with 0, in units of J.
        episode_ids: [B, T] episode of each token, −1 in the tail.
        response_mask: [B, T] 1 for sampled tokens.
        old_log_probs: [B, T] not used; all credits take the same arguments.
        index: [B] NumPy object array, the group of each row.
        alpha: α, weight of gains and price; with 0 the result is verl's GRPO, bit for bit.
        max_length: L, the longest response allowed, in tokens.
        length_cost: λ ≥ 0, the price of a response of length L, in units of the advantage before α.
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
    price = length_price(rollouts, alpha * length_cost, length_cost_for, max_length)
    potential = torch.nn.functional.pad(returns_to_go(rollouts.process, 1.0), (1, 0))
    tokens = rollouts.counts.sum(dim=1)
    sums = (rollouts.counts * potential).sum(dim=1)
    baseline = rollouts.others_mean(sums, tokens)

    count = rollouts.per_group(tokens).clamp_min(1.0)
    mean = (rollouts.per_group(sums) / count)[rollouts.group]
    squares = (rollouts.counts * (potential - mean[:, None]).square()).sum(dim=1)
    several = rollouts.sessions_per_group() > 1
    std = torch.where(several, (rollouts.per_group(squares) / count).sqrt(), 1.0)
    std = std.maximum(smallest_spread(rollouts, std_floor))
    scale = (alpha / std)[rollouts.group]
    table = result.double()[:, None] + scale[:, None] * (potential - baseline[:, None])
    return price.against_positions(rollouts.spread_to_tokens(table, result.dtype))
