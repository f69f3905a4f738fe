"""Checks and shared sums of the credit functions' common arguments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

BLOCK_TOKENS = 2**17
LARGEST_REWARD = 1e100  # squares and sums of what is beyond would not be finite
LARGEST_SURPRISE = 1e4  # nats; a sampled token of probability 0 (top-p, masking) is very surprising, not infinitely so


@dataclass(frozen=True)
class Rollouts:
    """The common arguments, checked and made safe.

    A token's slot is 0 in no episode, k + 1 in episode k, and K + 1 outside the mask. What costs a pass over all tokens is
    computed when it is first asked for; a batch has millions of them.

    Attributes:
        outcome: [B] outcome rewards, float64.
        process: [B, K] episode rewards, float64.
        episode_ids: [B, T] as given.
        response_mask: [B, T] as given.
        old_log_probs: [B, T] as given.
        counts: [B, K+1] sampled tokens of each slot, float64.
        group: [B] number of each row's group, 0 … G−1.
        num_groups: G.
        session: [B] number of each row's session; without sessions each row is one.
    """

    outcome: torch.Tensor
    process: torch.Tensor
    episode_ids: torch.Tensor
    response_mask: torch.Tensor
    old_log_probs: torch.Tensor
    counts: torch.Tensor
    group: torch.Tensor
    num_groups: int
    session: torch.Tensor

    @cached_property
    def mask(self) -> torch.Tensor:
        """[B, T] bool, sampled tokens."""
        return self.response_mask > 0

    @cached_property
    def slots(self) -> torch.Tensor:
        """[B, T] each token's slot."""
        return self.slots_of(slice(None))

    def slots_of(self, rows: slice) -> torch.Tensor:
        """[rows, T] slots of some rows, not kept."""
        return _token_slots(self.episode_ids[rows], self.response_mask[rows], self.process.shape[1])

    @cached_property
    def surprise(self) -> torch.Tensor:
        """[B, T] −log π_old ≥ 0 in nats, float64, 0 outside the mask."""
        values = torch.where(self.mask, -self.old_log_probs.double(), 0.0)
        return values.nan_to_num_(nan=0.0, posinf=LARGEST_SURPRISE, neginf=0.0).clamp_(0.0, LARGEST_SURPRISE)

    def per_slot(self, values: torch.Tensor) -> torch.Tensor:
        """[B, K+1] sums over the tokens of each slot of [B, T] values."""
        sums = torch.zeros(len(self.outcome), self.process.shape[1] + 2, dtype=values.dtype, device=values.device)
        return sums.scatter_add(1, self.slots, values)[:, :-1]

    def to_tokens(self, per_slot: torch.Tensor) -> torch.Tensor:
        """[B, T] each token's entry of a [B, K+1] table, 0 outside the mask."""
        return torch.nn.functional.pad(per_slot, (0, 1)).gather(1, self.slots)

    def spread_to_tokens(self, per_slot: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`to_tokens` of a finished [B, K+1] table, in another type.

        It works through blocks of rows, so that no other tensor of the batch's size is made than the [B, T] result.
        """
        table = torch.nn.functional.pad(to_precision(per_slot, dtype), (0, 1))
        result = torch.empty(self.response_mask.shape, dtype=dtype, device=table.device)
        for rows in row_blocks(self.response_mask):
            torch.gather(table[rows], 1, self.slots_of(rows), out=result[rows])
        return result

    def rows_of_groups(self) -> Iterator[torch.Tensor]:
        """The numbers of each group's rows, group after group."""
        sizes = torch.bincount(self.group, minlength=self.num_groups).tolist()
        return iter(torch.argsort(self.group, stable=True).split(sizes))

    def per_group(self, per_row: torch.Tensor) -> torch.Tensor:
        """[G] sums of [B] values."""
        return torch.zeros(self.num_groups, dtype=per_row.dtype, device=per_row.device).index_add(0, self.group, per_row)

    def per_session(self, per_row: torch.Tensor) -> torch.Tensor:
        """[B] sums of [B] values over the rows of each row's session."""
        return torch.zeros_like(per_row).index_add(0, self.session, per_row)[self.session]

    def per_group_once(self, per_row: torch.Tensor) -> torch.Tensor:
        """[G] sums of [B] values, each session's last row alone."""
        return self.per_group(per_row * self.is_last)

    @cached_property
    def is_last(self) -> torch.Tensor:
        """[B] bool, whether a row is its session's last."""
        return self._last == torch.arange(len(self._last))

    @cached_property
    def length(self) -> torch.Tensor:
        """[B] sampled tokens of each row's session, float64."""
        return self.per_session(self.counts.sum(dim=1))

    @cached_property
    def final_outcome(self) -> torch.Tensor:
        """[B] outcome of each row's session, which its last row carries."""
        return self.outcome[self._last]

    @cached_property
    def right(self) -> torch.Tensor:
        """[B] 1 where the row's session is right, an outcome above 0; else 0, float64."""
        return (self.final_outcome > 0).double()

    @cached_property
    def _last(self) -> torch.Tensor:
        """[B] number of the last row of each row's session."""
        rows = torch.arange(len(self.session))
        return torch.zeros_like(rows).scatter_reduce(0, self.session, rows, "amax")[self.session]

    def others_mean(self, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """The mean over the group's other sessions: a baseline that does not depend on the rollout itself.

        Args:
            sums: [B] sums of each row.
            counts: [B] how many values each row's sum is made of.

        Returns:
            [B] means; 0 where the other sessions hold nothing.
        """
        group = self.group
        count = self.per_group(counts)[group] - self.per_session(counts)
        total = self.per_group(sums)[group] - self.per_session(sums)
        return torch.where(count > 0, total / count.clamp_min(1.0), 0.0)

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

    Args:
        outcome: [B] outcome rewards.
        process: [B, K] episode rewards, padded with 0, in units of J.
        episode_ids: [B, T] episode of each token, −1 in the tail.
        response_mask: [B, T] 1 for sampled tokens.
        old_log_probs: [B, T] log π_old, in nats.
        index: [B] NumPy object array, the group of each row.
        session: [B] agent-loop session of each row; None: each row is a session.

    Returns:
        The rollouts, with sums over groups, sessions and episodes to be computed when they are asked for.

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
    counts = _slot_counts(episode_ids, response_mask, process.shape[1])
    group, num_groups = number_groups(index)
    outcome, process = (tensor.double().clamp(-LARGEST_REWARD, LARGEST_REWARD) for tensor in (outcome, process))
    own = number_groups(session)[0] if session is not None else torch.arange(rows)
    return Rollouts(outcome, process, episode_ids, response_mask, old_log_probs, counts, group, num_groups, own)


def share_of(max_length: int, length_share: float) -> int:
    """A share of the longest response allowed, to the nearest token.

    Raises:
        ValueError: the longest response has no token, or the share is not in (0, 1].

    Example:
        >>> share_of(200, 0.25)
        50
    """
    if max_length < 1 or not 0 < length_share <= 1:
        raise ValueError(
            f"max_length must be at least 1 and length_share above 0 and at most 1; got {max_length}, {length_share}"
        )
    return round(length_share * max_length)


def row_blocks(tokens: torch.Tensor) -> Iterator[slice]:
    """The rows of [B, T], a few at a time: what several operations in a row touch stays in the processor's cache."""
    rows, width = tokens.shape
    size = max(1, BLOCK_TOKENS // max(width, 1))
    return (slice(start, start + size) for start in range(0, rows, size))


def _token_slots(episode_ids: torch.Tensor, response_mask: torch.Tensor, episodes: int) -> torch.Tensor:
    """[B, T] slots; see `Rollouts`."""
    return (episode_ids + 1).masked_fill_(response_mask <= 0, episodes + 1)


def _slot_counts(episode_ids: torch.Tensor, response_mask: torch.Tensor, episodes: int) -> torch.Tensor:
    """[B, K+1] sampled tokens of each slot.

    Raises:
        ValueError: a sampled token's episode id outside −1 … K−1.
    """
    counts = torch.zeros(len(episode_ids), episodes + 2, dtype=torch.float64, device=episode_ids.device)
    one = torch.ones((), dtype=torch.float64, device=episode_ids.device)
    for rows in row_blocks(episode_ids):
        ids, mask = episode_ids[rows], response_mask[rows]
        if ids.numel() and not -1 <= int(ids.min()) <= int(ids.max()) < episodes:
            sampled = ids[mask > 0]  # what stands elsewhere does not matter
            if sampled.numel() and not -1 <= int(sampled.min()) <= int(sampled.max()) < episodes:
                raise ValueError(
                    f"episode_ids must lie in -1 … {episodes - 1}; got {int(sampled.min())} … {int(sampled.max())}"
                )
        slots = _token_slots(ids, mask, episodes)
        counts[rows].scatter_add_(1, slots, one.expand(slots.shape))
    return counts[:, :-1]


def number_groups(index: np.ndarray) -> tuple[torch.Tensor, int]:
    """Number groups in the order in which they first appear; names that print alike are one group.

    Args:
        index: [B] names of the rows' groups.

    Returns:
        [B] int64, the number of each row's group, and G, how many groups there are.

    Example:
        >>> number_groups(np.array(["b", "a", "b"], dtype=object))
        (tensor([0, 1, 0]), 2)
    """
    _, first, inverse = np.unique(np.asarray(index).astype(str), return_index=True, return_inverse=True)
    appearance = first.argsort().argsort()
    return torch.from_numpy(appearance[inverse.reshape(-1)]), len(first)


def to_precision(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cast values, clamped to the largest finite numbers of the target type.

    Example:
        >>> to_precision(torch.tensor([1e300, -2.0], dtype=torch.float64), torch.float32)
        tensor([ 3.4028e+38, -2.0000e+00])
    """
    limit = torch.finfo(dtype).max
    return values.clamp(-limit, limit).to(dtype)
