"""What the tokens still to come cost: the price that `episode` and `shaped` take off a token's credit."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from l2t_verl.credit.inputs import Rollouts, row_blocks, to_precision


@dataclass(frozen=True)
class LengthPrice:
    """P_{i,t} = (λ/L) n_{i,≥t} for a charged rollout i, 0 for another; n_{i,≥t} counts the sampled tokens from t on.

    Charged are all rollouts, or the correct ones (r^out > 0) that have another correct one in their group to be compared
    with: a rollout that failed is then not told to have been too long, and being wrong saves nobody the price.

    Attributes:
        rollouts: whose tokens are priced.
        token: [B] price of a token still to come, in the units of λ; 0 for rows that are not charged.
        baseline: [B] mean P over the tokens of the group's other charged rollouts; 0 for rows that are not charged.
    """

    rollouts: Rollouts
    token: torch.Tensor
    baseline: torch.Tensor

    def of_rows(self) -> torch.Tensor:
        """[B] sums of P over each row's tokens: n_{≥t} runs through T … 1."""
        counts = self.rollouts.counts.sum(dim=1)
        return self.token * counts * (counts + 1) / 2

    def taken_off(self, table: torch.Tensor, scale: torch.Tensor, rows: slice) -> torch.Tensor:
        """[rows, T] each token's entry of a [B, K+1] table of slots, minus scale [B] times P; 0 outside the mask."""
        mask = self.rollouts.response_mask[rows] > 0
        values = torch.nn.functional.pad(table[rows], (0, 1)).gather(1, self.rollouts.slots_of(rows))
        remaining = mask.flip(1).cumsum(1).flip(1).mul_(mask).double()
        return values.sub_(remaining.mul_((scale * self.token)[rows, None]))

    def spread_to_tokens(self, table: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """[B, T] a finished [B, K+1] table minus scale [B] times P − baseline, cast, in blocks of rows."""
        if not self.token.any():
            return self.rollouts.spread_to_tokens(table, dtype)
        table = table + (scale * self.baseline)[:, None]
        result = torch.empty(self.rollouts.response_mask.shape, dtype=dtype, device=table.device)
        for rows in row_blocks(self.rollouts.response_mask):
            result[rows] = to_precision(self.taken_off(table, scale, rows), dtype)
        return result


def length_price(rollouts: Rollouts, length_cost: float, length_cost_for: str, max_length: int) -> LengthPrice:
    """The price of rollouts' tokens.

    Args:
        rollouts: checked.
        length_cost: λ ≥ 0, the price of a response of length L.
        length_cost_for: which rollouts are charged, `all` or `correct`.
        max_length: L, the longest response allowed, in tokens.

    Raises:
        ValueError: L < 1, λ < 0, an unknown `length_cost_for`.
    """
    if max_length < 1 or not length_cost >= 0:
        raise ValueError(f"max_length must be at least 1 and length_cost at least 0; got {max_length}, {length_cost}")
    if length_cost_for not in ("all", "correct"):
        raise ValueError(f"length_cost_for must be all or correct, got {length_cost_for!r}")
    charged = torch.ones_like(rollouts.outcome)
    if length_cost_for == "correct":
        final, last = rollouts.last_rows()
        correct = (rollouts.outcome > 0)[final]
        charged = (correct & (rollouts.per_group((correct & last).double())[rollouts.group] > 1)).double()
    price = LengthPrice(rollouts, charged * (length_cost / max_length), torch.zeros_like(charged))
    counts = charged * rollouts.counts.sum(dim=1)
    return LengthPrice(rollouts, price.token, charged * rollouts.others_mean(price.of_rows(), counts))
