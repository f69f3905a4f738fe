"""Compression penalty: how far an episode leans on what training changed, in nats.

Axes: B rows, T response tokens, K episodes.
"""

from l2t_verl.compression.directional import (
    derivative_penalty,
    directional_derivatives,
    exact_derivatives,
    low_rank,
    shifted,
)
from l2t_verl.compression.penalty import ESTIMATORS, compression_penalty, sum_by_episode
from l2t_verl.compression.reference import log_ratio_deltas, noise_floor
from l2t_verl.compression.reward import process_rewards, relative_weight
from l2t_verl.compression.rounding import corrected_penalty

__all__ = [
    "ESTIMATORS",
    "compression_penalty",
    "corrected_penalty",
    "derivative_penalty",
    "directional_derivatives",
    "exact_derivatives",
    "log_ratio_deltas",
    "low_rank",
    "noise_floor",
    "process_rewards",
    "relative_weight",
    "shifted",
    "sum_by_episode",
]
