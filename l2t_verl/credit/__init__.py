"""Credit assignment: from the outcome and the episode rewards to token advantages.

Axes: B rows (rollouts), T response tokens, K episodes; a group is the rollouts of one prompt.
"""

from l2t_verl.credit.baselines import (
    adaptive_length_penalty_advantages,
    laser_d_advantages,
    length_penalty_advantages,
    overlong_advantages,
    truncation_advantages,
)
from l2t_verl.credit.calibration import calibration
from l2t_verl.credit.critic import critic_advantages, critic_values, episodes_of, success
from l2t_verl.credit.critic_history import Critic, learn
from l2t_verl.credit.episode import episode_advantages
from l2t_verl.credit.groups import outcome_advantages, spare_wrong_groups
from l2t_verl.credit.guided import guided_advantages
from l2t_verl.credit.health import advantage_health
from l2t_verl.credit.length_cost import LengthCost, update_length_cost
from l2t_verl.credit.paper import paper_advantages
from l2t_verl.credit.registered import CreditInputs, taught, token_advantages
from l2t_verl.credit.shaped import shaped_advantages

__all__ = [
    "CreditInputs",
    "Critic",
    "LengthCost",
    "adaptive_length_penalty_advantages",
    "advantage_health",
    "calibration",
    "critic_advantages",
    "critic_values",
    "episode_advantages",
    "episodes_of",
    "guided_advantages",
    "laser_d_advantages",
    "learn",
    "length_penalty_advantages",
    "outcome_advantages",
    "overlong_advantages",
    "paper_advantages",
    "shaped_advantages",
    "spare_wrong_groups",
    "success",
    "taught",
    "token_advantages",
    "truncation_advantages",
    "update_length_cost",
]
