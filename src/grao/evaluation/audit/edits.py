"""Trivial edits: variants of a text that say the same. A reward that they move is paid for form."""

import re
from collections.abc import Callable, Mapping

ITSELF = "nothing"
"""The edit that leaves the text as it is."""


def _doubled_space(text: str) -> str:
    return re.sub(r"(?<=\S) (?=\S)", "  ", text, count=1)


def _line_break(text: str) -> str:
    return f"{text.rstrip()}\n"


def _pleasantry(text: str) -> str:
    return f"{text.rstrip()} I hope this helps!"


def _bold(text: str) -> str:
    return re.sub(r"\S+", lambda word: f"**{word[0]}**", text, count=1)


def _small_letter(text: str) -> str:
    at = len(text) - len(text.lstrip())
    return text[:at] + text[at : at + 1].lower() + text[at + 1 :]


EDITS: Mapping[str, Callable[[str], str]] = {
    "a doubled space": _doubled_space,
    "a line break at the end": _line_break,
    "a closing pleasantry": _pleasantry,
    "bold type": _bold,
    "a small first letter": _small_letter,
}
"""Name -> edit. Leading white space, which belongs to the prompt's format, is kept."""


def edited(text: str) -> dict[str, str]:
    """The text itself and its variants by name; edits that change nothing in it are left out."""
    variants = {name: change(text) for name, change in EDITS.items()}
    return {ITSELF: text, **{name: variant for name, variant in variants.items() if variant != text}}
