"""Rules that measure: how long the answer is, how much of it is copied from the reference."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from grao.config.rule import LengthRule, OverlapRule

_COUNT: Mapping[str, Callable[[str], int]] = {"words": lambda text: len(text.split()), "characters": len}


def length_fit(settings: LengthRule, answer: str, reference: str, columns: Mapping[str, Any]) -> float:
    """With n words: min(n, target) / max(n, target), or min(1, at_most / n).

    A ratio, because it is never flat: an answer that is far too long still gains by each word that it leaves out.
    """
    length = _COUNT[settings.unit](answer)
    if settings.target is not None:
        return min(length, settings.target) / max(length, settings.target)
    return min(1.0, (settings.at_most or 0) / max(length, 1))


def verbatim_overlap(settings: OverlapRule, answer: str, reference: str, columns: Mapping[str, Any]) -> float:
    """Minus the share of the answer's runs of `words` words that stand in the reference too.

    Words are runs of letters and digits, compared without regard to case, so it says nothing of languages that are
    written without spaces. An answer of fewer words copies nothing.
    """
    said, source = (_runs(text, settings.words) for text in (answer, reference))
    known = set(source)
    return -sum(run in known for run in said) / len(said) if said else 0.0


def _runs(text: str, length: int) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return [tuple(words[at : at + length]) for at in range(len(words) - length + 1)]
