"""Compression penalty: how far an episode leans on what training changed, in nats.

Axes: B rows, T response tokens, K episodes.
"""

from l2t_verl.compression.penalty import ESTIMATORS, compression_penalty
from l2t_verl.compression.reference import log_ratio_deltas, noise_floor
from l2t_verl.compression.reward import process_rewards, relative_weight

__all__ = [
    "ESTIMATORS",
    "compression_penalty",
    "log_ratio_deltas",
    "noise_floor",
    "process_rewards",
    "relative_weight",
]
