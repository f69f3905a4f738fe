"""What is packed: contexts and their branches, and how many of them go into one forward."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Branch:
    """A forced answer after a prefix.

    Attributes:
        visible: tokens of the context that it continues, at least 1.
        suffix: unscored tokens that force the answer.
        answer: scored tokens, at least one.
    """

    visible: int
    suffix: list[int]
    answer: list[int]

    @property
    def size(self) -> int:
        """Tokens that are read: the last visible one of the context again, the suffix, the answer but its last."""
        return len(self.suffix) + len(self.answer)


@dataclass(frozen=True)
class PackedRow:
    """One response.

    Attributes:
        context: tokens of prompt and response.
        branches: what continues parts of them.
        first: index of the first token of the context whose own log-prob is wanted, at least 1; None for none of them.
    """

    context: list[int]
    branches: list[Branch] = field(default_factory=list)
    first: int | None = None

    @property
    def size(self) -> int:
        """Tokens that the forward reads for it."""
        return len(self.context) + sum(branch.size for branch in self.branches)

    def split(self, max_tokens: int) -> list[PackedRow]:
        """Distribute the branches over several copies of the context, if all of them together exceed `max_tokens`.

        Each copy takes branches of at least a quarter of its own length, even beyond the bound. Otherwise a context that
        nearly fills the bound would be read again for every branch.

        Args:
            max_tokens: most tokens of one row, context and branches together.

        Returns:
            Rows that hold all branches in their order; the first one also asks for the context's own log-probs.

        Example:
            >>> row = PackedRow([0] * 8, [Branch(8, [], [1]) for _ in range(4)])
            >>> [len(part.branches) for part in row.split(10)]
            [2, 2]
        """
        max_tokens = max(max_tokens, len(self.context) * 5 // 4)
        parts: list[list[Branch]] = [[]]
        size = len(self.context)
        for branch in self.branches:
            if parts[-1] and size + branch.size > max_tokens:
                parts.append([])
                size = len(self.context)
            parts[-1].append(branch)
            size += branch.size
        if len(parts) == 1:
            return [self]
        return [replace(self, branches=part, first=self.first if i == 0 else None) for i, part in enumerate(parts)]


def micro_batches(rows: list[PackedRow], max_tokens: int) -> list[list[int]]:
    """Group rows that share a forward, the longest first.

    Args:
        rows: to be grouped.
        max_tokens: most tokens of one group, unless one row alone is longer.

    Returns:
        The numbers of each group's rows.

    Example:
        >>> micro_batches([PackedRow([0] * n) for n in (3, 9, 4)], 12)
        [[1], [2, 0]]
    """
    batches: list[list[int]] = []
    size = 0
    for row in sorted(range(len(rows)), key=lambda i: -rows[i].size):
        if not batches or size + rows[row].size > max_tokens:
            batches.append([])
            size = 0
        batches[-1].append(row)
        size += rows[row].size
    return batches
