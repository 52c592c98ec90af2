"""A wrong recipe in words: one line that names file and line, or the option, the field, and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from grao.config.fields import example, general, names, variants
from grao.config.recipe import Recipe
from grao.config.strict_yaml import Location, write_inline

_SHOWN = 60
"""Longest value that is repeated in a message, in characters."""

_EXPECTED = {
    "bool_type": "true or false",
    "dataclass_type": "a section (keys with values)",
    "dict_type": "a mapping (keys with values)",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "int_type": "a whole number",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "string_too_short": "text that is not empty",
    "string_type": "text",
    "too_short": "a list of at least {min_length}",
    "tuple_type": "a list",
}
"""pydantic's error types -> what the field must be."""


@dataclass(frozen=True)
class Given:
    """What the user gave, not checked yet."""

    values: dict[str, Any]
    """The recipe as plain values, options applied."""
    file: Path | None
    lines: dict[Location, int]
    """Of everything in the file."""
    options: tuple[Location, ...] = ()
    """Set by `--a.b value`, in this order."""
    root: type = Recipe
    """What it is to become."""

    def origin(self, at: Location) -> tuple[Location | None, int | None]:
        """The option, or else the line, that a value or its closest section came from."""
        for prefix in (at[:length] for length in range(len(at), 0, -1)):
            if prefix in self.options:
                return prefix, None
            if prefix in self.lines:
                return None, self.lines[prefix]
            for option in self.options:
                if option[: len(prefix)] == prefix:
                    return option, None
        return None, None

    def where(self, at: Location) -> str:
        """`recipe.yaml, line 4: rollout.group_size` or `--rollout.group_size`."""
        if not at:
            return str(self.file or "the options")
        option, line = self.origin(at)
        if option == at or self.file is None:
            return f"--{dotted(at)}"
        if option is not None:
            return f"--{dotted(option)}: {dotted(at)}"
        return f"{self.file}{f', line {line}' if line else ''}: {dotted(at)}"


def dotted(at: Location) -> str:
    """`rollout.group_size`; parts that are no plain words in quotes."""
    return ".".join(_shortened(write_inline(part) if not part.isdecimal() else part) for part in at)


def describe(error: ValidationError, given: Given) -> str:
    """The first mistake of a recipe in one line, and how many there are besides.

    First come unknown keys, for they are often the reason for what is missing; then the order of the file.
    """
    found: dict[Location, list[ErrorDetails]] = {}
    for item in error.errors():
        at = _location(item, given.values)
        if at is not None:
            found.setdefault(at, []).append(item)
    ranked = sorted(found, key=lambda at: _rank(found[at][0]["type"], given.origin(at)))
    more = len(ranked) - 1
    rest = f" (and {more} more mistake{'s' if more > 1 else ''})" if more else ""
    return _sentence(ranked[0], found[ranked[0]], given) + rest


def _rank(kind: str, origin: tuple[Location | None, int | None]) -> tuple[bool, float]:
    option, line = origin
    return kind != "unexpected_keyword_argument", 0 if option else line or float("inf")


def _location(item: ErrorDetails, values: Any) -> Location | None:
    """pydantic's `loc` without the union members that it names in between.

    None for a section that it calls missing although it is there and only something inside is wrong.
    """
    at: list[str] = []
    for part in item["loc"]:
        keys = range(len(values)) if isinstance(values, list) else values if isinstance(values, dict) else ()
        if part in keys:
            values = values[part]
            at.append(str(part))
    if item["type"] == "union_tag_invalid":
        return (*at, "name")
    if item["type"] != "missing":
        return tuple(at)
    absent = len(at) < len(item["loc"])
    return (*at, str(item["loc"][-1])) if absent else None


def _sentence(at: Location, items: list[ErrorDetails], given: Given) -> str:
    kind, where = items[0]["type"], given.where(at)
    as_option = where == f"--{dotted(at)}"
    if kind == "unexpected_keyword_argument":
        return f"{where} is unknown; {_suggestion(at, as_option, given)}"
    if kind == "union_tag_invalid":
        known, name = variants(general(at[:-1]), given.root), items[0]["input"].get("name")
        near = get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{where} must be {' or '.join(known)}, got {_shortened(write_inline(name))}{hint}"
    if kind == "missing" and as_option:
        path, value = _innermost(at, example(general(at), given.root))
        return f"--{dotted(path)} is missing, for example --{dotted(path)} {value}"
    if kind == "missing":
        return f"{where} is missing, for example {at[-1]}: {write_inline(example(general(at), given.root))}"
    if kind not in _EXPECTED:
        return f"{where}: {items[0]['msg'].removeprefix('Value error, ')}"
    expected = " or ".join(dict.fromkeys(_expected(item) for item in items))
    return f"{where} must be {expected}, got {_shortened(write_inline(items[0]['input']))}"


def _expected(item: ErrorDetails) -> str:
    context = {name: _plain_number(value) for name, value in item.get("ctx", {}).items()}
    words = _EXPECTED[item["type"]].format(**context).replace("'", "")
    quotes = item["type"] == "string_type" and isinstance(item["input"], bool | int | float)
    return f"{words} in quotes" if quotes else words


def _plain_number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _suggestion(at: Location, as_option: bool, given: Given) -> str:
    """The key that was probably meant, here or in another section; else all keys of this section."""
    *section, key = at
    root = given.root
    here = names(root)[general(tuple(section))]
    if kinds := variants(general(tuple(section)), root):
        name = _value(given.values, section).get("name", next(iter(kinds)))
        here = tuple(item.path[-1] for item in kinds[name].fields)
        if others := [kind for kind, facts in kinds.items() if key in {item.path[-1] for item in facts.fields}]:
            return f"{name} has no {key}, {' and '.join(others)} {'has' if len(others) == 1 else 'have'}"
    paths = [(*path, name) for path, known in names(root).items() for name in known]
    if tuple(key.split(".")) in paths:
        return f"in a file, write {key.rpartition('.')[2]} below {key.rpartition('.')[0]}, indented"
    same = [path for path in paths if path[-1] == key]
    near = [(*section, name) for name in get_close_matches(key, here, n=1)]
    alike = get_close_matches(key, [path[-1] for path in paths], n=1)
    meant = near if near and not same else _shallowest(same or [path for path in paths if path[-1] in alike])
    if not meant:
        return f"{dotted(tuple(section)) or 'a recipe'} has {', '.join(here)}"
    if meant is near and not as_option:
        return f"did you mean {near[0][-1]}?"
    return f"did you mean {' or '.join('--' * as_option + '.'.join(path) for path in meant)}?"


def _value(values: Any, at: Sequence[str]) -> Any:
    """What stands at a place."""
    for part in at:
        values = values[int(part)] if isinstance(values, list) else values[part]
    return values


def _shallowest(paths: list[Location]) -> list[Location]:
    """Those nearest to the top: what stands deep inside optional sections is seldom meant."""
    return [path for path in paths if len(path) == min(map(len, paths))]


def _innermost(at: Location, value: Any) -> tuple[Location, Any]:
    """The first value inside sections and lists, and where it stands."""
    if isinstance(value, dict):
        key = next(iter(value))
        return _innermost((*at, key), value[key])
    return _innermost((*at, "0"), value[0]) if isinstance(value, list) else (at, value)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
