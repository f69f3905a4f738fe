"""What the critic knows: its weights, and the last steps' states that they were fitted on; in the checkpoint beside λ."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import torch

from l2t_verl.credit.critic import PRIOR, critic_states, episodes_of, success
from l2t_verl.credit.inputs import Rollouts
from l2t_verl.credit.logistic import fit_logistic
from l2t_verl.files import whole


@dataclass(frozen=True)
class Critic:
    """The critic between two steps.

    Attributes:
        weights: [5] w of V = σ(w · x); None before the first step.
        history: of the last steps, oldest first, [N, 5] states and [N] outcomes in [0, 1], float32.
    """

    weights: torch.Tensor | None = None
    history: tuple[tuple[torch.Tensor, torch.Tensor], ...] = ()

    def save(self, file: Path) -> None:
        """Write it, the file whole or not at all.

        Raises:
            FileError: the disk is full, or the file cannot be written.
        """
        buffer = io.BytesIO()
        torch.save({"weights": self.weights, "history": [list(of_step) for of_step in self.history]}, buffer)
        with whole(file) as partial:
            partial.write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, file: Path) -> Critic:
        """What `save` wrote."""
        found = torch.load(file, weights_only=True)
        return cls(found["weights"], tuple((states, outcomes) for states, outcomes in found["history"]))


def learn(critic: Critic, rollouts: Rollouts, scores: torch.Tensor, *, ridge: float, steps: int) -> Critic:
    """The critic after a step: its history with this step's rollouts in it, and weights that fit it.

    It is to be called once the step's advantages are computed: weights judge only rollouts that are not in their fit.
    Rows without episodes have no J and are left out.

    Args:
        critic: before.
        rollouts: of the step, checked.
        scores: [B, K+1] J_0 … J_K in [0, 1], padded with the last.
        ridge: ρ, the strength of the prior that V is the others' mean outcome.
        steps: that the history keeps.

    Raises:
        ValueError: see `critic_states` and `fit_logistic`.
    """
    episodes = episodes_of(rollouts)
    live = (torch.arange(scores.shape[1]) <= episodes[:, None]) & (episodes > 0)[:, None]
    outcomes = success(rollouts)[:, None].expand(live.shape)
    seen = (critic_states(rollouts, scores)[live].float(), outcomes[live].float())
    history = (*critic.history, seen)[-steps:]
    states, results = (torch.cat(parts) for parts in zip(*history, strict=True))
    return Critic(fit_logistic(states, results, PRIOR, ridge), history)
