"""Episodes: a response's reasoning cut into steps, by position in tokens.

Axes: B rows, T response tokens, K episodes.
"""

from l2t_verl.episodes.body import ANSWER_MARKERS, body_end
from l2t_verl.episodes.configured import segment_as_configured
from l2t_verl.episodes.discourse_markers import MARKERS
from l2t_verl.episodes.format import format_ok
from l2t_verl.episodes.ids import drop_masked, episode_ids
from l2t_verl.episodes.mentions import states_answer
from l2t_verl.episodes.segmentation import METHODS, segment
from l2t_verl.episodes.surprise import surprise_ends

__all__ = [
    "ANSWER_MARKERS",
    "MARKERS",
    "METHODS",
    "body_end",
    "drop_masked",
    "episode_ids",
    "format_ok",
    "segment",
    "segment_as_configured",
    "states_answer",
    "surprise_ends",
]
