"""The paper's segmenter: numbered tags `<episode_k>…</episode_k>` inside the thinking."""

from __future__ import annotations

import re

TAGS = re.compile(r"<(?P<close>/?)episode_(?P<number>\d+)>")


def episode_tags(text: str, body_end: int) -> list[int] | None:
    """Cut at tagged episodes (arXiv 2505.10425, section 4.1).

    An episode ends at its closing tag; one that is not closed ends where the next opens, or at the body's end. A closing
    tag without an open episode is ordinary text, so of nested episodes the inner one cuts the outer. The order of the text
    counts, whatever the numbers are (`format_ok` judges them). Text between episodes joins the following one.

    Args:
        text: the response.
        body_end: length of its reasoning, in characters.

    Returns:
        Cuts, as character positions; None if no episode is opened.

    Example:
        >>> episode_tags("<episode_1>a</episode_1><episode_2>b", 36)
        [24]
        >>> episode_tags("no tags", 7) is None
        True
    """
    cuts: list[int] = []
    found_any = is_open = False
    for tag in TAGS.finditer(text, 0, body_end):
        if tag["close"]:
            if is_open:
                cuts.append(tag.end())
            is_open = False
        else:
            if is_open:
                cuts.append(tag.start())
            found_any = is_open = True
    return cuts if found_any else None
