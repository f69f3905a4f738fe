"""Whether a response keeps the paper's format."""

from __future__ import annotations

from l2t_verl.episodes.episode_tags import TAGS
from l2t_verl.thought import MARKS, Marks


def format_ok(text: str, marks: Marks = MARKS) -> bool:
    """Whether the text is one closed thought made of episodes 1 … K, numbered in order, each closed, none nested.

    Args:
        text: the response. The mark that opens its thought may stand in the prompt instead.
        marks: texts that open and close a thought.

    Example:
        >>> format_ok("<think><episode_1>a</episode_1> <episode_2>b</episode_2></think> 7")
        True
        >>> format_ok("<think><episode_2>a</episode_2></think>"), format_ok("<episode_1>a</episode_1>")
        (False, False)
    """
    found = list(marks.found_in(text))
    if [closes for closes, _ in found] not in ([False, True], [True]):
        return False
    start, end = found[0][1] if len(found) == 2 else 0, found[-1][1]
    tags = list(TAGS.finditer(text))
    if not tags or tags[0].start() < start or tags[-1].end() > end:
        return False
    expected = [(close, str(number)) for number in range(1, len(tags) // 2 + 1) for close in ("", "/")]
    return [(tag["close"], tag["number"]) for tag in tags] == expected
