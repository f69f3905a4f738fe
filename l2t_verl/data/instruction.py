r"""What a prompt asks for: a thought cut into numbered episodes (arXiv 2505.10425, section 4.1), and a final answer."""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

from l2t_verl.thought import MARKS, Marks, opens_thought

Instruction = Literal["adaptive", "fixed", "none", "given"]
ANSWERS = {
    "math": r"give the final answer within \boxed{}.",
    "code": "give the whole program in one ```python block.",
}


def check_instruction(kind: str) -> Instruction:
    """Check the name of a kind of instruction.

    Raises:
        ValueError: there is no such kind; the message lists those that there are.

    Example:
        >>> check_instruction("fixed")
        'fixed'
    """
    if kind not in get_args(Instruction):
        raise ValueError(f"--instruction {kind}: take one of {', '.join(get_args(Instruction))}")
    return cast(Instruction, kind)


def instruction(
    kind: Instruction,
    *,
    episodes: int = 30,
    opened: bool = False,
    task: Literal["math", "code"] = "math",
    marks: Marks = MARKS,
) -> str:
    r"""Write the instruction that follows a problem.

    Args:
        kind: `adaptive`, as many episodes as the problem needs; `fixed`, at most `episodes`; `none`, no episodes at all,
            for the other segmenters; `given`, nothing: the problem says itself what is asked for.
        episodes: of `fixed`.
        opened: the chat template has opened the thought already, so that asking for `<think>` would open another.
        task: what kind of answer is asked for.
        marks: of the thought.

    Example:
        >>> instruction("none")
        'Reason step by step, and give the final answer within \\boxed{}.'
    """
    if kind == "given":
        return ""
    if kind == "none":
        return f"Reason step by step, and {ANSWERS[task]}"
    opening, closing = marks.opening, marks.closing
    where = (
        f"Your thought is open already; close it with {closing}." if opened else f"Think between {opening} and {closing}."
    )
    count = "as many as the problem needs" if kind == "adaptive" else f"at most {episodes} of them"
    return (
        f"{where} Put each step of the thought between tags of its own, numbered from 1: <episode_1> ... </episode_1>, "
        f"<episode_2> ... </episode_2> and so on, {count}. After {closing}, {ANSWERS[task]}"
    )


def with_instruction(question: str, words: str) -> str:
    r"""A question with the instruction that follows it.

    Example:
        >>> with_instruction("1 + 1?", "Reason step by step."), with_instruction("1 + 1?", "")
        ('1 + 1?\n\nReason step by step.', '1 + 1?')
    """
    return f"{question}\n\n{words}" if words else question


def opens_thinking(tokenizer: Any, marks: Marks = MARKS) -> bool:
    """Whether a chat template opens a thought at the end of the prompt.

    Args:
        tokenizer: a Hugging Face tokenizer.
        marks: of the thought.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError("the tokenizer has no chat template; take an instruct model's")
    message = [{"role": "user", "content": "?"}]
    text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    return opens_thought(text, marks)
