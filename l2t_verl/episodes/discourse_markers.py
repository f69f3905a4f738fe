"""A new episode where a sentence opens with a turn of thought."""

from __future__ import annotations

import re
from collections.abc import Sequence

MARKERS = (
    *("Wait", "Alternatively", "However", "But", "Hmm", "Let me", "Maybe", "Actually", "Therefore", "So"),
    *("First", "Next", "Now", "Then", "Finally", "Step"),
)


def discourse_markers(text: str, body_end: int, markers: Sequence[str] = MARKERS) -> list[int]:
    """Cut before each sentence that opens with a marker.

    The cut stands before the white space in front of the marker, because tokenizers join that space to the word.

    Args:
        text: the response.
        body_end: length of its reasoning, in characters.
        markers: words or phrases that may open a sentence.

    Returns:
        Cuts, as character positions.

    Raises:
        ValueError: there is no marker, or an empty one.

    Example:
        >>> discourse_markers("It is 3. Wait, no. So it is 4.", 30)
        [8, 18]
    """
    if isinstance(markers, str) or not markers or not all(markers):
        raise ValueError(f"markers must be a list of sentence openings such as 'Wait', got {markers!r}")
    alternatives = "|".join(re.escape(marker) for marker in sorted(markers, key=len, reverse=True))
    opening = re.compile(rf"(?:(?<=[.!?:…])|(?<=[.!?][\"')\]])|(?=\n))\s+(?=(?:{alternatives})(?!\w))")
    return [found.start() for found in opening.finditer(text, 0, body_end)]
