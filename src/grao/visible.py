"""Text of models, data and servers as it may be shown: nothing in it can move a cursor or turn the order of a line."""

import re

_PICTURES = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "\N{SYMBOL FOR DELETE}"}
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Marks that change the direction of what is written (Unicode's property Bidi_Control)."""


def visible(text: str) -> str:
    """The text with its control characters made visible; line breaks and tabs stay.

    Controls become their pictures or, where there is none, a replacement mark; marks of direction become their number.

    Example: an escape sequence that would turn a terminal red reads `␛[31m`, and a right-to-left override `[U+202E]`.
    """
    text = _CONTROLS.sub(lambda found: _PICTURES.get(ord(found[0]), "\N{REPLACEMENT CHARACTER}"), text)
    return TURNING.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)
