"""Rules about the form of the answer alone: patterns, sections, JSON."""

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from grao.config.rule import FormatRule, JsonRule, RegexRule

_FENCED = re.compile(r"```[a-zA-Z]*\n(.*?)\n?```", re.DOTALL)


def regex_match(settings: RegexRule, answer: str, reference: str, columns: Mapping[str, Any]) -> float:
    """1 if the pattern occurs anywhere, else 0."""
    return float(re.search(settings.pattern, answer) is not None)


def format_fit(settings: FormatRule, answer: str, reference: str, columns: Mapping[str, Any]) -> float:
    """1 if the whole answer matches the pattern, else 0; or the share of the sections that follow one another."""
    if settings.pattern is not None:
        return float(re.fullmatch(settings.pattern, answer.strip(), re.DOTALL) is not None)
    place = found = 0
    for section in settings.sections:
        at = answer.find(section, place)
        if at >= 0:
            place, found = at + len(section), found + 1
    return found / len(settings.sections)


def json_validity(settings: JsonRule, answer: str, reference: str, columns: Mapping[str, Any]) -> float:
    """0 if the answer is no JSON; else 1, or the share of the required keys that it has (0 if it is no object).

    Strict: no NaN or Infinity, no key twice in an object.
    """
    text = answer.strip()
    if settings.fenced and (block := _FENCED.fullmatch(text)):
        text = block.group(1)
    try:
        value = json.loads(text, parse_constant=_refused, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return 0.0
    if not settings.required:
        return 1.0
    keys = value if isinstance(value, dict) else {}
    return sum(key in keys for key in settings.required) / len(settings.required)


def _refused(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return found
