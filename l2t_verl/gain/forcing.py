"""Which text forces an answer at a boundary: it has to close a thought that is open there, and only then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from l2t_verl.gain.target import AnswerTarget, answer_target
from l2t_verl.grading.truth import normalised_truth
from l2t_verl.thought import Marks, opens_thought

if TYPE_CHECKING:
    from l2t_verl.config import GainConfig

State = Literal["open", "closed", "none", "absent"]


@dataclass(frozen=True)
class ForcingTemplate:
    r"""The texts around a forced answer.

    Attributes:
        suffix: text before the answer.
        closing: text after it.
        think_open: text that opens thinking.
        think_close: text that closes an open thought; together with `suffix` the default is the usual
            `\n</think>\n\nThe final answer is \boxed{`.
        thinks: whether the model thinks, so that a thought is opened and closed where none was begun; None: it does if
            the closing mark is one token of its vocabulary, or if it opens a thought.
    """

    suffix: str = "\n\nThe final answer is \\boxed{"
    closing: str = "}"
    think_open: str = "<think>"
    think_close: str = "\n</think>"
    thinks: bool | None = None

    @classmethod
    def from_config(cls, gain: GainConfig) -> ForcingTemplate:
        """The template that the configuration's section `gain` describes."""
        return cls(gain.forcing_suffix, gain.closing, gain.think_open, gain.think_close, gain.thinks)

    @property
    def marks(self) -> Marks:
        """The marks of the thought, as text is searched for them."""
        return Marks.of(self.think_open, self.think_close)

    def forcing(self, state: State) -> str:
        r"""The text for a prefix: an open thought is closed; a model that thinks gets an empty thought where none is open.

        Example:
            >>> ForcingTemplate(suffix=" Answer:").forcing("open"), ForcingTemplate(suffix=" Answer:").forcing("absent")
            ('\n</think> Answer:', ' Answer:')
        """
        if state == "open":
            return self.think_close + self.suffix
        if state == "none":
            return self.think_open + self.think_close + self.suffix
        return self.suffix

    def cut(self, text: str, start: int) -> str:
        r"""A text without what follows the closing of a sampled answer that begins at `start`.

        A closing brace counts where it closes the suffix's own, not one of the answer's.

        Example:
            >>> ForcingTemplate().cut(r"\boxed{\frac{1}{2}}. So \boxed{3}", 7)
            '\\boxed{\\frac{1}{2}}'
        """
        depth = 0
        for position in range(start, len(text)):
            if depth == 0 and text.startswith(self.closing, position):
                return text[: position + len(self.closing)]
            if self.closing.startswith("}"):
                depth += {"{": 1, "}": -1}.get(text[position], 0)
        return text


def thinking_states(
    tokenizer: Any,
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
    episode_ends: Sequence[int],
    template: ForcingTemplate,
) -> list[State]:
    """Where the thinking stands after (prompt, response_{≤ b_k}), for k = 0 … K.

    `open`: a thought is open. `closed`: one was closed and none is open. `none`: no thought yet, but the model thinks
    (`template.thinks`). `absent`: it does not.

    Args:
        tokenizer: a Hugging Face tokenizer.
        prompt_ids: prompt tokens; only its end decides, an example thought in the middle is over.
        response_ids: response tokens.
        episode_ends: K ends b_1 < … < b_K, in tokens.
        template: the texts of the marks.

    Returns:
        K+1 states.
    """
    marks = template.marks
    opening, closing = marks.opening, marks.closing
    whole = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    # the tokens before the response that may hold an opening mark put there by the chat template
    text = tokenizer.decode(list(prompt_ids)[-64:], **whole)
    state: State = "open" if opens_thought(text, marks) else "none"
    single = len(tokenizer.encode(closing, add_special_tokens=False)) == 1
    thinks = single or state == "open" if template.thinks is None else template.thinks
    states: list[State] = [state]
    position, carried = 0, ""
    for end in episode_ends:
        piece = carried + tokenizer.decode(list(response_ids[position:end]), **whole)
        last_open, last_close = piece.rfind(opening), piece.rfind(closing)
        if max(last_open, last_close) >= 0:
            state = "open" if last_open > last_close else "closed"
            thinks = thinks or template.thinks is None
        carried = piece[-max(len(opening), len(closing)) + 1 :]  # a mark may be split by a boundary
        position = end
        states.append(state)
    return [("absent" if state == "none" and not thinks else state) for state in states]


def answer_targets(
    tokenizer: Any,
    prompt_ids: Sequence[int] | torch.Tensor,
    response_ids: Sequence[int] | torch.Tensor,
    episode_ends: Sequence[int],
    answer: str,
    template: ForcingTemplate,
) -> list[AnswerTarget]:
    """The K+1 targets of one response: what is appended after each prefix, and what of it is scored.

    Raises:
        ValueError: the answer is empty.
    """
    answer = normalised_truth(answer) if answer.strip() else answer  # a box in the box would make J many times too small
    prompt = prompt_ids.tolist() if isinstance(prompt_ids, torch.Tensor) else list(prompt_ids)
    response = response_ids.tolist() if isinstance(response_ids, torch.Tensor) else list(response_ids)
    states = thinking_states(tokenizer, prompt, response, episode_ends, template)
    made = {
        state: answer_target(tokenizer, answer, suffix=template.forcing(state), closing=template.closing)
        for state in sorted(set(states))
    }
    return [made[state] for state in states]
