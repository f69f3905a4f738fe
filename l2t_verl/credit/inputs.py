"""Checks and shared sums of the credit functions' common arguments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

LARGEST_REWARD = 1e100  # squares and sums of what is beyond would not be finite
LARGEST_SURPRISE = 1e4  # nats; a sampled token of probability 0 (top-p, masking) is very surprising, not infinitely so


@dataclass(frozen=True)
class Rollouts:
    """The common arguments, checked and made safe.

    Attributes:
        outcome: [B] outcome rewards, float64.
        process: [B, K] episode rewards, float64.
        slots: [B, T] 0 for tokens of no episode, k + 1 for episode k; 0 outside the mask as well.
        mask: [B, T] bool, sampled tokens.
        surprise: [B, T] −log π_old ≥ 0 in nats, float64, 0 outside the mask.
        group: [B] number of each row's group, 0 … G−1.
        num_groups: G.
        session: [B] number of each row's session; without sessions each row is one.
    """

    outcome: torch.Tensor
    process: torch.Tensor
    slots: torch.Tensor
    mask: torch.Tensor
    surprise: torch.Tensor
    group: torch.Tensor
    num_groups: int
    session: torch.Tensor

    @property
    def in_episode(self) -> torch.Tensor:
        """[B, T] sampled tokens that lie in an episode."""
        return self.slots > 0

    def per_slot(self, values: torch.Tensor) -> torch.Tensor:
        """[B, K+1] sums over the tokens of each slot of [B, T] values."""
        sums = torch.zeros(len(self.outcome), self.process.shape[1] + 1, dtype=values.dtype, device=values.device)
        return sums.scatter_add(1, self.slots, torch.where(self.mask, values, 0))

    def to_tokens(self, per_slot: torch.Tensor) -> torch.Tensor:
        """[B, T] each token's entry of a [B, K+1] table."""
        return per_slot.gather(1, self.slots)

    def per_group(self, per_row: torch.Tensor) -> torch.Tensor:
        """[G] sums of [B] values."""
        return torch.zeros(self.num_groups, dtype=per_row.dtype, device=per_row.device).index_add(0, self.group, per_row)

    def per_session(self, per_row: torch.Tensor) -> torch.Tensor:
        """[B] sums of [B] values over the rows of each row's session."""
        return torch.zeros_like(per_row).index_add(0, self.session, per_row)[self.session]

    def sessions_per_group(self) -> torch.Tensor:
        """[G] sessions of each group, float64."""
        ones = torch.ones(len(self.outcome), dtype=torch.float64, device=self.outcome.device)
        return self.per_group(1.0 / self.per_session(ones)).round()


def check_rollouts(
    outcome: torch.Tensor,
    process: torch.Tensor,
    episode_ids: torch.Tensor,
    response_mask: torch.Tensor,
    old_log_probs: torch.Tensor,
    index: np.ndarray,
    session: np.ndarray | None = None,
) -> Rollouts:
    """Check the arguments that every credit function has.

    Several rows of one `session` are the outputs of one rollout, which counts once wherever rollouts are counted.

    Raises:
        ValueError: misaligned shapes (with got and expected), an episode id outside −1 … K−1, or a reward that is not
            finite (with its row).
    """
    if response_mask.ndim != 2:
        raise ValueError(f"response_mask must be [B, T], got shape {tuple(response_mask.shape)}")
    rows, tokens = response_mask.shape
    expected = {
        "outcome": (outcome, (rows,)),
        "process": (process, (rows, process.shape[-1] if process.ndim == 2 else -1)),
        "episode_ids": (episode_ids, (rows, tokens)),
        "old_log_probs": (old_log_probs, (rows, tokens)),
    }
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            wanted = "[B, K]" if name == "process" else list(shape)
            raise ValueError(f"{name} must have shape {wanted} with B={rows}, T={tokens}; got {list(tensor.shape)}")
    if len(index) != rows:
        raise ValueError(f"index must name the group of each of the B={rows} rows; got {len(index)}")
    for name, tensor in (("outcome", outcome), ("process", process)):
        bad = (~torch.isfinite(tensor)).reshape(rows, -1).any(dim=1).nonzero()
        if len(bad):
            raise ValueError(f"{name} of row {int(bad[0])} is not finite: {tensor[int(bad[0])].tolist()}")
    mask = response_mask > 0
    slots = torch.where(mask, episode_ids + 1, 0)
    if slots.numel() and not (int(slots.min()) >= 0 and int(slots.max()) <= process.shape[1]):
        raise ValueError(
            f"episode_ids must lie in -1 … {process.shape[1] - 1}; got {int(slots.min()) - 1} … {int(slots.max()) - 1}"
        )
    surprise = torch.where(mask, -old_log_probs.double(), 0.0)
    surprise = surprise.nan_to_num(nan=0.0, posinf=LARGEST_SURPRISE, neginf=0.0).clamp(0.0, LARGEST_SURPRISE)
    group, num_groups = number_groups(index)
    bounded = [tensor.double().clamp(-LARGEST_REWARD, LARGEST_REWARD) for tensor in (outcome, process)]
    own = number_groups(session)[0] if session is not None else torch.arange(rows)
    return Rollouts(*bounded, slots, mask, surprise, group, num_groups, own)


def number_groups(index: np.ndarray) -> tuple[torch.Tensor, int]:
    """Number the groups that `index` names, as they first appear: ([B] int64, G). Names that print alike are one group."""
    _, first, inverse = np.unique(np.asarray(index).astype(str), return_index=True, return_inverse=True)
    appearance = first.argsort().argsort()
    return torch.from_numpy(appearance[inverse.reshape(-1)]), len(first)
