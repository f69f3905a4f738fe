"""Fitting information gain: what an episode adds to the model's own probability of the reference answer.

Axes: B rows, T response tokens, K episodes, A answer tokens.
"""

from l2t_verl.gain.differences import best_of_answers, fitting_gains
from l2t_verl.gain.forcing import ForcingTemplate, answer_targets, thinking_states
from l2t_verl.gain.kinds import reduce_log_probs
from l2t_verl.gain.sampled import forced_prompts, sampled_scores
from l2t_verl.gain.scores import BACKENDS, answer_scores
from l2t_verl.gain.target import AnswerTarget, answer_target
from l2t_verl.registry import KINDS

__all__ = [
    "BACKENDS",
    "KINDS",
    "AnswerTarget",
    "ForcingTemplate",
    "answer_scores",
    "answer_target",
    "answer_targets",
    "best_of_answers",
    "fitting_gains",
    "forced_prompts",
    "reduce_log_probs",
    "sampled_scores",
    "thinking_states",
]
