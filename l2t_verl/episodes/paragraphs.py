"""One episode for each paragraph."""

from __future__ import annotations

import re

BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")


def paragraphs(text: str, body_end: int) -> list[int]:
    """Cuts after blank lines, as character positions; the blank line belongs to the paragraph before it."""
    return [found.end() for found in BLANK_LINE.finditer(text, 0, body_end)]
