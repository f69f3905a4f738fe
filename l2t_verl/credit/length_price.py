"""What the tokens still to come cost: the price that `episode` and `shaped` take off a token's credit."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from l2t_verl.credit.inputs import Rollouts, to_precision


@dataclass(frozen=True)
class LengthPrice:
    """The price of the tokens still to come: P_{i,t} = (λ/L) n_{i,≥t}, where n_{i,≥t} counts the sampled tokens from t on.

    Either all rollouts are charged, or only correct ones (r^out > 0) that can be compared with another correct one in
    their group. In the second case a rollout that failed is not told that it was too long, and being wrong does not save
    the price.

    Attributes:
        rollouts: whose tokens are priced.
        token: [B] price of a token still to come, in the units of λ; 0 for rows that are not charged.
    """

    rollouts: Rollouts
    token: torch.Tensor

    def against_tokens(self, advantages: torch.Tensor) -> torch.Tensor:
        """Take P_{i,t} − p_i off [B, T] advantages, in place.

        p_i is the mean of P over the tokens of the group's other charged rollouts.
        """
        lengths = self.rollouts.counts.sum(dim=1)
        sums = self.token * lengths * (lengths + 1) / 2  # n_{≥t} runs through T … 1
        means = self.rollouts.others_mean(sums, (self.token > 0) * lengths)
        return self._taken_off(advantages, means)

    def against_positions(self, advantages: torch.Tensor) -> torch.Tensor:
        """Take (λ/L) (n_{i,≥t} − mean_j n_{j,≥t}) off [B, T] advantages, in place; j are the group's other charged rollouts.

        A rollout that has ended before t counts with 0 tokens. Where all have one length, nobody pays anything.
        """
        return self._taken_off(advantages, None)

    def _taken_off(self, advantages: torch.Tensor, means: torch.Tensor | None) -> torch.Tensor:
        """`advantages`, changed in place a group at a time: nothing else of the batch's size is made."""
        for rows in self.rollouts.rows_of_groups():
            if not self.token[rows].any():
                continue
            mask = self.rollouts.response_mask[rows] > 0
            remaining = mask.flip(1).cumsum(1).flip(1).double()
            token = self.token[rows, None]
            if means is None:
                price = token * (remaining - self._others_remaining(rows, remaining))
            else:
                price = token * remaining - (token > 0) * means[rows, None]
            advantages[rows] = to_precision(advantages[rows].double() - price * mask, advantages.dtype)
        return advantages

    def _others_remaining(self, rows: torch.Tensor, remaining: torch.Tensor) -> torch.Tensor:
        """[n, T] mean of n_{j,≥t} over the charged rows of the group's other sessions; 0 where there are none."""
        charged = (self.token[rows, None] > 0).double()
        numbers, session = self.rollouts.session[rows].unique(return_inverse=True)
        shape = (len(numbers), remaining.shape[1])
        own = torch.zeros(shape, dtype=torch.float64).index_add(0, session, charged * remaining)
        count = torch.zeros(len(numbers), 1, dtype=torch.float64).index_add(0, session, charged)
        return ((own.sum(dim=0) - own) / (count.sum() - count).clamp_min(1.0))[session]


def length_price(rollouts: Rollouts, length_cost: float, length_cost_for: str, max_length: int) -> LengthPrice:
    """Set the price of the tokens of each rollout.

    Args:
        rollouts: checked rollouts; see `check_rollouts`.
        length_cost: λ ≥ 0, the price of a response of length L.
        length_cost_for: which rollouts are charged, `all` or `correct`.
        max_length: L, the longest response allowed, in tokens.

    Returns:
        The price, which is taken off advantages by `against_tokens` or `against_positions`.

    Raises:
        ValueError: L < 1, λ < 0, an unknown `length_cost_for`.
    """
    if max_length < 1 or not length_cost >= 0:
        raise ValueError(f"max_length must be at least 1 and length_cost at least 0; got {max_length}, {length_cost}")
    if length_cost_for not in ("all", "correct"):
        raise ValueError(f"length_cost_for must be all or correct, got {length_cost_for!r}")
    charged = torch.ones_like(rollouts.outcome)
    if length_cost_for == "correct":
        charged = rollouts.right * (rollouts.per_group_once(rollouts.right) > 1)[rollouts.group]
    return LengthPrice(rollouts, charged * (length_cost / max_length))
