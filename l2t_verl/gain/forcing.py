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
        """The template that the configuration's section `gain` describes.

        Example:
            >>> from l2t_verl.config import load_config
            >>> ForcingTemplate.from_config(load_config({"gain": {"closing": "."}}).gain).closing
            '.'
        """
        return cls(gain.forcing_suffix, gain.closing, gain.think_open, gain.think_close, gain.thinks)

    @property
    def marks(self) -> Marks:
        """The marks that open and close a thought, without white space around them."""
        return Marks.of(self.think_open, self.think_close)

    def forcing(self, state: State) -> str:
        r"""The text that forces an answer after a prefix.

        It closes a thought that is open. For a model that thinks but has not begun to, it holds an empty thought.

        Args:
            state: where the thinking stands after the prefix; see `thinking_states`.

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
        r"""Cut a text after the closing of the sampled answer that begins at `start`.

        A brace closes the answer only if it belongs to the suffix, not if the answer itself has opened it.

        Args:
            text: suffix and sampled answer, and what the model wrote after it.
            start: where the answer begins, in characters.

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

    `open`: a thought is open. `closed`: one was closed, and none is open. `none`: there is no thought yet, but the model
    thinks (`template.thinks`). `absent`: the model does not think.

    Args:
        tokenizer: a Hugging Face tokenizer.
        prompt_ids: prompt tokens. Only the end of the prompt counts; a thought in an example further up is over.
        response_ids: response tokens.
        episode_ends: K ends b_1 < … < b_K, in tokens.
        template: the texts of the marks.

    Returns:
        K+1 states.

    Example:
        >>> from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> letters = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
        >>> letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
        >>> prompt, response = tokenizer.encode("1 + 1?<think>"), tokenizer.encode("2.</think>")
        >>> thinking_states(tokenizer, prompt, response, [2, 10], ForcingTemplate())
        ['open', 'open', 'closed']
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
    """The K+1 targets of one response: the tokens that are appended after each prefix, and which of them are scored.

    Args:
        tokenizer: a Hugging Face tokenizer.
        prompt_ids: prompt tokens.
        response_ids: T response tokens.
        episode_ends: K ends b_1 < … < b_K ≤ T, in tokens.
        answer: the reference answer; a box or other wrapping around it is taken off.
        template: the texts that force an answer.

    Returns:
        K+1 targets, for the prefixes that end at b_0 = 0, b_1, … b_K.

    Raises:
        ValueError: the answer is empty.

    Example:
        >>> from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> letters = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
        >>> letters.pre_tokenizer, letters.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
        >>> template = ForcingTemplate(suffix=" Answer: ", closing=".", thinks=False)
        >>> first, last = answer_targets(tokenizer, tokenizer.encode("1 + 1?"), tokenizer.encode("Two"), [3], "2", template)
        >>> tokenizer.decode(list(last.suffix_ids)), tokenizer.decode(list(last.answer_ids))
        (' Answer: ', '2.')
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
