"""Rules that compare the answer with what is expected: the same text, the same number.

Left out: fractions, percentages, units and expressions. `1/2` holds two numbers, and the last one counts.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from grao.config.rule import ExactRule, NumericRule
from grao.errors import InputError

_NUMBER = re.compile(r"[-\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-\u2212]?\.\d+")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_MARK = "####"


def exact_match(settings: ExactRule, answer: str, reference: str, columns: Mapping[str, Any]) -> float:
    """1 if the two texts are the same but for white space, else 0."""
    texts = [" ".join(text.split()) for text in (answer, _expected(settings.column, reference, columns))]
    said, wanted = (text.casefold() for text in texts) if settings.ignore_case else texts
    return float(said == wanted)


def numeric_match(settings: NumericRule, answer: str, reference: str, columns: Mapping[str, Any]) -> float | None:
    """1 if the answer's number is the expected one, 0 if it is another or there is none; None if none is expected."""
    wanted = final_number(_expected(settings.column, reference, columns))
    if wanted is None:
        return None
    said = final_number(answer)
    return float(said is not None and abs(said - wanted) <= settings.tolerance)


def final_number(text: str) -> float | None:
    """The number that a worked answer comes to.

    It stands behind the last `####` (GSM8K), else in the last `\\boxed{}`, else it is the last number of the text.
    Commas between thousands are left out: `1,234.5` is 1234.5. A minus sign directly behind a digit is an operator:
    `5-3` ends in 3.

    Returns:
        None where there is no number in that place.
    """
    boxed = _BOXED.findall(text)
    if _MARK in text:
        found = _numbers(text.rpartition(_MARK)[2])[:1]
    elif boxed:
        found = _numbers(boxed[-1])[-1:]
    else:
        found = _numbers(text)[-1:]
    return found[0] if found else None


def _numbers(text: str) -> list[float]:
    spans = (match.span() for match in _NUMBER.finditer(text))
    signed = [(text[max(start - 1, 0) : start], text[start:end]) for start, end in spans]
    values = (float(_unsigned(before, word).replace(",", "").replace("\u2212", "-")) for before, word in signed)
    return [value for value in values if math.isfinite(value)]


def _unsigned(before: str, word: str) -> str:
    return word.lstrip("-\u2212") if before.isalnum() else word


def _expected(column: str | None, reference: str, columns: Mapping[str, Any]) -> str:
    if column is None:
        return reference
    if column not in columns:
        known = ", ".join(map(repr, columns)) or "none"
        raise InputError(f"the data have no column {column!r} beside prompt and reference, only {known}")
    return str(columns[column])
