"""Accuracy against a budget of tokens: the thought that is stored is cut after b tokens, and the answer forced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from l2t_verl.evaluate.engines import whole_characters
from l2t_verl.gain import ForcingTemplate
from l2t_verl.thought import find_thought

ANSWER_TOKENS = 64  # a forced answer is short


@dataclass(frozen=True)
class Cut:
    """A thought that was cut after some tokens.

    Attributes:
        text: what is kept of it, with the text that forces an answer.
        kept: tokens of thought.
    """

    text: str
    kept: int


def cut(
    tokenizer: Any, response: str, budget: int, template: ForcingTemplate, opened: bool, ended: bool = True
) -> Cut | None:
    """Cut a response after `budget` tokens and force its answer.

    Args:
        tokenizer: the model's.
        response: a whole response.
        budget: tokens, ≥ 1.
        template: of forced answers.
        opened: whether the prompt ends inside a thought.
        ended: whether it came to its end. If the limit on its length has cut it off, its answer is forced there.

    Returns:
        What is kept; None if the response has ended by then, so that its own answer counts.
    """
    response = whole_characters(response)  # earlier versions stored halves of characters
    ids = tokenizer.encode(response, add_special_tokens=False)
    if len(ids) <= budget and ended:
        return None
    kept = tokenizer.decode(ids[:budget]) if len(ids) > budget else response
    thought = find_thought(kept, template.marks, opened)
    forcing = template.forcing("open" if thought.is_open else "closed")
    return Cut(kept + forcing, min(budget, len(ids)))
