"""What a worker scores, without an engine: rows become prefixes with forced answers, and their log-probs become J again."""

from __future__ import annotations

from typing import Any

import torch

from l2t_verl.config import GainConfig
from l2t_verl.gain import ForcingTemplate, answer_targets, best_of_answers, reduce_log_probs
from l2t_verl.packing import Branch, PackedRow


class ScoringPlan:
    """What has to be scored for the rows of a batch: rows become prefixes with forced answers, and log-probs become J.

    Attributes:
        rows: one for each row of the batch, with the branches of all its accepted answers that fit the model's context.
    """

    def __init__(self, config: GainConfig, tokenizer: Any, context_length: int | None):
        self.config, self.tokenizer, self.context_length = config, tokenizer, context_length
        self.template = ForcingTemplate.from_config(config)
        self.rows: list[PackedRow] = []
        self._prefixes: list[int] = []  # K+1 of each row

    def add_row(
        self, prompt: torch.Tensor, response: torch.Tensor, ends: list[int], answers: list[str], *, own_tokens: bool = False
    ) -> None:
        """Add the K+1 forced answers of each accepted answer, as far as they fit the model's context.

        Args:
            prompt: prompt tokens.
            response: response tokens.
            ends: b_1 … b_K; empty where nothing has to be scored.
            answers: accepted answers.
            own_tokens: whether the response's own log-probs are wanted as well.
        """
        branches: list[Branch] = []
        for answer in answers if ends else []:
            targets = answer_targets(self.tokenizer, prompt, response, ends, answer, self.template)
            found = [
                Branch(len(prompt) + end, list(target.suffix_ids), list(target.answer_ids))
                for end, target in zip([0, *ends], targets, strict=True)
            ]
            longest = max(branch.visible + branch.size for branch in found)
            if self.context_length is None or longest <= self.context_length:
                branches += found
        if own_tokens:
            row = PackedRow([*prompt.tolist(), *response.tolist()], branches, first=len(prompt))
        else:
            row = PackedRow([*prompt.tolist(), *response[: ends[-1] if ends else 0].tolist()], branches)
        self.rows.append(row)
        self._prefixes.append(len(ends) + 1)

    def asked_twice(self) -> list[PackedRow]:
        """The row whose J_0 and J_K are computed a second time, by another forward, to see how exact J is.

        Returns:
            The first row that is scored, with the branches of its J_0 and J_K alone; empty if no row is scored.
        """
        for row, prefixes in zip(self.rows, self._prefixes, strict=True):
            if row.branches:
                return [PackedRow(row.context, [row.branches[0], row.branches[prefixes - 1]])]
        return []

    def score_gaps(self, answers: list[list[torch.Tensor]], again: list[list[torch.Tensor]]) -> torch.Tensor:
        """How far J_0 and J_K of the row that was asked twice differ between two forwards: `l2t/score_floor`.

        Args:
            answers: log-probs for each branch of each row, in nats.
            again: log-probs for the branches of `asked_twice`, by another forward.

        Returns:
            [B] root mean square of the two differences, in units of J; NaN for all other rows.
        """
        gaps = torch.full((len(self.rows),), float("nan"))
        for values in again:
            row = next(i for i, row in enumerate(self.rows) if row.branches)
            first = [answers[row][0], answers[row][self._prefixes[row] - 1]]
            gaps[row] = (self._reduced(first) - self._reduced(values)).square().mean().sqrt().float()
        return gaps

    def _reduced(self, values: list[torch.Tensor]) -> torch.Tensor:
        padded = torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
        return reduce_log_probs(padded, torch.tensor([len(of) for of in values]), kind=self.config.kind)

    def scores(self, answers: list[list[torch.Tensor]]) -> torch.Tensor:
        """Reduce the log-probs of the answers' tokens to J.

        Args:
            answers: [A] log-probs for each branch of each row, in order, in nats.

        Returns:
            Nested J_0 … J_K, float32 [K+1] for each row; NaN where nothing was scored.
        """
        flat = [values for row in answers for values in row]
        if flat:
            of_row = self._reduced(flat).split([len(row) for row in answers])
        rows = [
            best_of_answers(of_row[i].reshape(-1, prefixes)) if answers[i] else torch.full((prefixes,), float("nan"))
            for i, prefixes in enumerate(self._prefixes)
        ]
        return torch.nested.as_nested_tensor([row.float() for row in rows], layout=torch.jagged)


def as_verl(rows: list[PackedRow], values: list[torch.Tensor]) -> torch.Tensor:
    """Arrange values of the rows' own tokens as verl's engines do: nested, with the value of token t + 1 at position t."""
    columns = []
    for row, of_row in zip(rows, values, strict=True):
        column = torch.zeros(len(row.context))
        first = first_own(row)
        column[first - 1 : first - 1 + len(of_row)] = of_row
        columns.append(column)
    return torch.nested.as_nested_tensor(columns, layout=torch.jagged)


def first_own(row: PackedRow) -> int:
    """Index of the first token of a row whose own log-prob is wanted; the row has to have been made with `own_tokens`."""
    assert row.first is not None
    return row.first
