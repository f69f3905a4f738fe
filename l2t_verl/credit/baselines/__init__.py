"""Rewards for brevity that L2T is compared with: each as its paper has it, with this project's outcomes and groups."""

from l2t_verl.credit.baselines.adaptive_length_penalty import adaptive_length_penalty_advantages
from l2t_verl.credit.baselines.laser_d import laser_d_advantages
from l2t_verl.credit.baselines.length_penalty import length_penalty_advantages
from l2t_verl.credit.baselines.overlong import overlong_advantages
from l2t_verl.credit.baselines.truncation import truncation_advantages

__all__ = [
    "adaptive_length_penalty_advantages",
    "laser_d_advantages",
    "length_penalty_advantages",
    "overlong_advantages",
    "truncation_advantages",
]
