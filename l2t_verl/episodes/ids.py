"""Episodes as tensors, and the multi-turn mask."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def episode_ids(episode_ends: Sequence[Sequence[int]], length: int) -> torch.Tensor:
    """Number the tokens of each row by their episode.

    Args:
        episode_ends: for each of B rows its ends b_1 < … < b_K ≤ T, in tokens; rows may be empty.
        length: T.

    Returns:
        [B, T] int64: k where b_k ≤ t < b_{k+1} with b_0 = 0, so that the first episode is 0; −1 from the last end on.

    Raises:
        ValueError: an end outside 1 … T.

    Example:
        >>> episode_ids([[1, 3], []], 4)
        tensor([[ 0,  1,  1, -1],
                [-1, -1, -1, -1]])
    """
    rows = [row for row, ends in enumerate(episode_ends) for _ in ends]
    ends = [int(end) for row in episode_ends for end in row]
    if ends and not (min(ends) >= 1 and max(ends) <= length):
        raise ValueError(f"episode ends must lie in 1 … T={length}, got {min(ends)} … {max(ends)}")
    passed = torch.zeros(len(episode_ends), length + 1, dtype=torch.int64)
    passed.index_put_((torch.tensor(rows, dtype=torch.int64), torch.tensor(ends, dtype=torch.int64)), torch.tensor(1))
    ids = passed.cumsum(1)[:, :length]
    counts = torch.tensor([len(row) for row in episode_ends], dtype=torch.int64)
    return torch.where(ids < counts[:, None], ids, -1)


def drop_masked(episode_ends: Sequence[int], response_mask: torch.Tensor | Sequence[int]) -> list[int]:
    """Drop episodes that hold no sampled token, such as a tool's output; their gain goes to the next episode.

    If the last episode is dropped, its tokens belong to the tail, and its gain goes to no episode.

    Args:
        episode_ends: ends b_1 < … < b_K, in tokens.
        response_mask: [T] 1 for sampled tokens.

    Returns:
        The ends that are left, in tokens.

    Example:
        >>> drop_masked([2, 4, 6], [1, 1, 0, 0, 1, 1])
        [2, 6]
    """
    sampled = torch.as_tensor(response_mask).cumsum(0).tolist()
    kept, before = [], 0
    for end in episode_ends:
        if sampled[end - 1] > before:
            kept.append(int(end))
            before = sampled[end - 1]
    return kept
