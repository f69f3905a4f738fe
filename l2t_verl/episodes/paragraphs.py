"""One episode for each paragraph."""

from __future__ import annotations

import re

BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")


def paragraphs(text: str, body_end: int) -> list[int]:
    r"""Cut after blank lines; a blank line belongs to the paragraph before it.

    Args:
        text: the response.
        body_end: length of its reasoning, in characters.

    Returns:
        Cuts, as character positions.

    Example:
        >>> paragraphs("First.\n\nThen.", 13)
        [8]
    """
    return [found.end() for found in BLANK_LINE.finditer(text, 0, body_end)]
