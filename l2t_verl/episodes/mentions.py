"""Whether a text states the reference answer."""

from __future__ import annotations

import re
from functools import lru_cache

_SPELLINGS = ((re.compile(r"\\[dt]frac"), r"\\frac"), (re.compile(r"\\left|\\right|\\[,!;: ]|\$|\s"), ""))
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def states_answer(text: str, answer: str) -> bool:
    """Whether `text` holds `answer` as a whole number or expression, whatever its spacing and thousands separators.

    Args:
        text: of an episode or a response.
        answer: the reference answer. If nothing is left of it once spaces are gone, it is stated nowhere.

    Example:
        >>> states_answer("so it is 1,234.", "1234"), states_answer("17 and 3.5", "1"), states_answer("3.5", "5")
        (True, False, False)
    """
    wanted = _normalise(answer)
    if not wanted:
        return False
    if any(character.isdigit() for character in wanted[:1] + wanted[-1:]) or wanted.isalnum():
        # spaces separate numbers, so they stay while whole ones are looked for
        return _whole(re.sub(r"\s+", "", answer.replace(",", ""))).search(_THOUSANDS.sub("", text)) is not None
    return wanted in _normalise(text)


def _normalise(text: str) -> str:
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return _THOUSANDS.sub("", text)


@lru_cache(maxsize=4096)
def _whole(answer: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w./]){re.escape(answer)}(?!\w|[./]\d)", re.IGNORECASE)
