"""Make untrusted text safe to display: no control character can move the cursor or reorder a line."""

import re

_PICTURES = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "\N{SYMBOL FOR DELETE}"}
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that change the writing direction (Unicode property Bidi_Control)."""


def visible(text: str) -> str:
    """Return the text with control characters made visible, except line breaks and tabs.

    Control characters become Unicode control pictures, or the replacement character if there is none. Direction marks
    become their code point.

    Example: an escape sequence that would turn a terminal red reads `␛[31m`, a right-to-left override `[U+202E]`.
    """
    text = _CONTROLS.sub(lambda match: _PICTURES.get(ord(match[0]), "\N{REPLACEMENT CHARACTER}"), text)
    return TURNING.sub(lambda match: f"[U+{ord(match[0]):04X}]", text)
