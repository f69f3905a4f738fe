"""Text that shows what it holds: characters that are unseen, or that move others, stand there by name."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls but tab and line feed
    r"\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"  # marks of direction, widths of zero, separators
    r"\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"  # annotations, lone surrogates, tags
)


def visible(text: str) -> Markup:
    r"""Turn a text into HTML that does nothing: markup is escaped, and hidden characters are shown by name.

    Example:
        >>> print(visible("<b>\x07 \u202e"))
        &lt;b&gt;<span class="hidden-character">^G</span> <span class="hidden-character">U+202E</span>
    """
    return Markup(HIDDEN.sub(_named, str(escape(text.replace("\r\n", "\n")))))


def plain(text: str) -> str:
    r"""Name the hidden characters of a text, for places such as labels where no markup can stand.

    Example:
        >>> plain("a\u202eb")
        'aU+202Eb'
    """
    return HIDDEN.sub(lambda found: _name(found.group()), text)


def _named(found: re.Match) -> str:
    return f'<span class="hidden-character">{_name(found.group())}</span>'


def _name(character: str) -> str:
    code = ord(character)
    return f"^{chr(code ^ 0x40)}" if code < 0x20 or code == 0x7F else f"U+{code:04X}"
