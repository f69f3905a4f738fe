"""What travels between the plugin's parts through verl: the reward manager's extra info and the TransferQueue's fields.

verl carries scalars and strings only in the extra info, with identical keys in every sample, so the episodes travel as
one JSON string: a list with an entry for each output of the trajectory, `{"ends": [b_1, …], "states": [0 or 1, …]}`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from l2t_verl.grading.truth import accepted_answers as accepted_answers  # one definition, with the graders

# Fields of a row in the TransferQueue
BOUNDARIES = "l2t_boundaries"  # int64 [K+1]: 0, b_1 … b_K
ANSWER_SCORES = "l2t_answer_scores"  # float32 [K+1]: J_0 … J_K; NaN where the answer does not fit
SCORE_GAP = "l2t_score_gap"  # float32 []: how far J of one prefix is off by another forward; NaN where not asked
DERIVATIVES = "l2t_derivatives"  # float64 [K+1]: 0, d_1 … d_K in nats
DISPLACEMENT_NORM = "l2t_displacement_norm"  # float64 []: ‖Δθ̃‖²
GRPO_ADVANTAGES = "l2t_grpo_advantages"  # float32 [T]

# Keys of reward_extra_info
ACCURACY = "acc"
EPISODES = "l2t_episodes"
NUM_EPISODES = "l2t_num_episodes"
FORMAT_OK = "l2t_format_ok"
GRADING = "l2t_grading"
FORCED = "l2t_forced"  # texts that the agent loop asks the reward manager to grade, and their accuracies
SAMPLED_SCORES = "l2t_sampled_scores"  # JSON: for each output J_0 … J_K by sampled answers, or null


@dataclass(frozen=True)
class OutputEpisodes:
    """The episodes of one output.

    Attributes:
        ends: end positions b_1 < … < b_K, in response tokens.
        states: for each episode, 1 if its text states the reference answer, else 0; empty if not known.
    """

    ends: list[int]
    states: list[int]


def encode_episodes(outputs: Sequence[OutputEpisodes]) -> str:
    """Write the episodes of a trajectory's outputs as one string.

    Example:
        >>> decode_episodes(encode_episodes([OutputEpisodes([3, 7], [0, 1])]))
        [OutputEpisodes(ends=[3, 7], states=[0, 1])]
    """
    return json.dumps([asdict(output) for output in outputs])


def decode_episodes(text: str) -> list[OutputEpisodes]:
    """Read what `encode_episodes` wrote."""
    return [OutputEpisodes(**entry) for entry in json.loads(text)]


def encode_scores(outputs: Sequence[Sequence[float] | None]) -> str:
    """Write the sampled scores J_0 … J_K of a trajectory's outputs as one string; None where there are none.

    Example:
        >>> decode_scores(encode_scores([[0.0, 0.5], None])), decode_scores(None)
        ([[0.0, 0.5], None], [])
    """
    return json.dumps([None if scores is None else list(scores) for scores in outputs])


def decode_scores(text: str | None) -> list[list[float] | None]:
    """Read what `encode_scores` wrote; nothing where it never wrote."""
    return json.loads(text) if text else []


def ground_truth_of(reward_model: Any) -> Any:
    """The ground truth in verl's `reward_model` column, or None where the column or the key is missing."""
    return reward_model.get("ground_truth") if isinstance(reward_model, dict) else None


def objects(data: Any, name: str) -> list[Any]:
    """A column of plain Python objects; tensordict hands it out in one of several list types."""
    column = data.get(name)
    return column.tolist() if hasattr(column, "tolist") else list(column)
