"""Error messages for invalid recipes: one line with all unknown keys, or else with all wrong and missing values."""

import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from grao.config.other_trainers import ABSENT, meaning
from grao.config.recipe import Recipe, RewardModelRecipe
from grao.config.schema import adapter, example, general, names, variants, whole
from grao.config.strict_yaml import Location, write_inline
from grao.config.study import Study
from grao.errors import listed
from grao.files import read_packaged

_SHOWN = 60
"""Longest value repeated in a message, in characters."""
_MOST = 12
"""Maximum number of problems in one message."""
_UNKNOWN, _MISSING = "unexpected_keyword_argument", "missing"
_KINDS: dict[type, tuple[str, str]] = {
    Recipe: ("the recipe of a run", "grao train"),
    Study: ("a study", "grao compare"),
    RewardModelRecipe: ("the recipe of a reward model", "grao reward train"),
}
"""Kinds of recipes and the commands that take them."""

_EXPECTED: dict[str, str] = read_packaged("grao.config", "expected.yaml")
"""pydantic's error type -> what the field must be."""


@dataclass(frozen=True)
class Given:
    """The user's input, before validation."""

    root: type
    """Class of the recipe."""
    values: dict[str, Any]
    """The recipe as plain values, with options applied."""
    file: Path | None
    lines: dict[Location, int | None]
    """Line of every key and list entry in the file; None for values set by an option."""

    def origin(self, at: Location) -> Location | int | None:
        """Return the option (its path) or the line that set a value, or else the closest section around it."""
        for length in range(len(at), 0, -1):
            options = (key for key, line in self.lines.items() if line is None and key[:length] == at[:length])
            if origin := self.lines.get(at[:length]) or next(options, None):
                return origin
        return None

    def where(self, at: Location) -> str:
        """Return where a value was set: `recipe.yaml, line 4: rollout.group_size` or `--rollout.group_size`."""
        if not at:
            return str(self.file or "the options")
        origin = self.origin(at)
        if origin == at or self.file is None:
            return f"--{dotted_path(at)}"
        if isinstance(origin, tuple):
            return f"--{dotted_path(origin)}: {dotted_path(at)}"
        return f"{self.file}{f', line {origin}' if origin else ''}: {dotted_path(at)}"


def dotted_path(at: Location) -> str:
    """Return the path as `rollout.group_size`, quoting parts that are not plain words."""
    return ".".join(_shortened(part if part.isdecimal() else write_inline(part)) for part in at)


def described(error: ValidationError, given: Given) -> str:
    """Describe all problems of a recipe in one line, in the order of the file.

    If there are unknown keys, describe only these, since they often explain missing ones.
    """
    problems: dict[Location, list[ErrorDetails]] = {}
    for item in error.errors():
        if (at := _location(item, given.values)) is not None:
            problems.setdefault(at, []).append(item)

    def line(at: Location) -> float:
        return 0 if isinstance(origin := given.origin(at), tuple) else origin or float("inf")

    unknown = [at for at in problems if problems[at][0]["type"] == _UNKNOWN]
    if unknown and (other := _other_kind(given)):
        return other
    paths = sorted(unknown or problems, key=line)
    missing = [at for at in paths if problems[at][0]["type"] == _MISSING and given.file is None]
    sentences = [_sentence(at, problems[at], given) for at in paths if at not in missing]
    options = [_missing_options(missing, given.root)] if missing else []
    more = len(problems) - len(missing) - len(sentences[:_MOST])
    rest = f" (and {more} more mistake{'s' if more > 1 else ''})" if more else ""
    return listed([*sentences[:_MOST], *options], str(given.file or "")) + rest


def _other_kind(given: Given) -> str | None:
    """Return the message for a file that is a recipe of another kind; None if it is not."""
    for root, (kind, command) in _KINDS.items():
        if given.file is None or root is given.root:
            continue
        try:
            adapter(root).validate_json(json.dumps(given.values), strict=True, by_alias=True, by_name=False)
        except ValidationError as error:
            if any(item["type"] == _UNKNOWN for item in error.errors()):
                continue
        command = "grao sweep" if root is Study and given.values.get("over") else command
        return f"{given.file} is {kind}: {command} --config {given.file}"
    return None


def _location(item: ErrorDetails, values: Any) -> Location | None:
    """Return pydantic's `loc` without the union members that it contains.

    Return None if a section is reported as missing although it is present; then a problem inside it is reported too.
    """
    at: list[str] = []
    for part in item["loc"]:
        keys = range(len(values)) if isinstance(values, list) else values if isinstance(values, dict) else ()
        if part in keys:
            values = values[part]
            at.append(str(part))
    if item["type"] == "union_tag_invalid":
        return (*at, "name")
    if item["type"] != _MISSING:
        return tuple(at)
    return (*at, str(item["loc"][-1])) if len(at) < len(item["loc"]) else None


def _sentence(at: Location, items: list[ErrorDetails], given: Given) -> str:
    kind, value, where = items[0]["type"], items[0]["input"], given.where(at)
    if kind == _UNKNOWN:
        return f"{where} is unknown; {suggestion(at, where == f'--{dotted_path(at)}', given.root, given.values)}"
    if kind == "union_tag_invalid":
        known, name = variants(general(at[:-1]), given.root), value.get("name")
        hint = "".join(f"; did you mean {similar}?" for similar in get_close_matches(str(name), known, n=1))
        return f"{where} must be {' or '.join(known)}, got {_shortened(write_inline(name))}{hint}"
    if kind == _MISSING:
        return f"{where} is missing, for example {at[-1]}: {write_inline(example(general(at), given.root))}"
    if kind not in _EXPECTED:
        return f"{where}: {items[0]['msg'].removeprefix('Value error, ')}"
    expected = " or ".join(dict.fromkeys(_expected(item) for item in items))
    has_path = kind == "dataclass_type" and isinstance(value, str) and "path" in names(given.root).get(general(at), ())
    hint = "; write the path below it, indented: path: ..." if has_path else ""
    return f"{where} must be {expected}, got {_shortened(write_inline(value))}{hint}"


def _missing_options(missing: list[Location], root: type) -> str:
    """Name missing fields as options, with an example, for a command without a recipe file."""
    options = []
    for at in missing:
        text = example(general(at), root)
        while text and isinstance(text, dict | list):  # descend to the first plain value
            key, text = next(iter(text.items())) if isinstance(text, dict) else ("0", text[0])
            at = (*at, key)
        options.append((f"--{dotted_path(at)}", text))
    *others, last = (name for name, _ in options)
    subject = f"{', '.join(others)} and {last} are" if others else f"{last} is"
    return f"{subject} missing, for example {' '.join(f'{name} {text}' for name, text in options)}"


def _expected(item: ErrorDetails) -> str:
    words = _EXPECTED[item["type"]].format(**{name: whole(value) for name, value in item.get("ctx", {}).items()})
    quotes = item["type"] == "string_type" and isinstance(item["input"], bool | int | float)
    return words.replace("'", "") + " in quotes" * quotes


def suggestion(at: Location, as_option: bool, root: type, values: Any = None) -> str:
    """Suggest what an unknown key means: a similar key here or in another section, else all keys of its section.

    Args:
        at: path of the unknown key.
        as_option: whether it was given as an option instead of in a file.
        root: class of the recipe.
        values: the recipe as plain values; selects the variant of a section that has several.
    """
    section, key, known = at[:-1], at[-1], names(root)
    of_run, section_keys = "rollout" in known[()], known.get(general(section), ())
    if kinds := variants(general(section), root):
        chosen = _inside(values, section)
        name = chosen.get("name") if isinstance(chosen, dict) else None
        name = name if name in kinds else next(iter(kinds))
        keys = {kind: tuple(item.path[-1] for item in facts.fields) for kind, facts in kinds.items()}
        if others := [kind for kind in kinds if key in keys[kind]]:
            return f"{name} has no {key}, {' and '.join(others)} {'has' if len(others) == 1 else 'have'}"
        section_keys = keys[name]
    paths = [(*path, name) for path, names_there in known.items() for name in names_there]
    if tuple(key.split(".")) in paths:
        return f"in a file, write {key.rpartition('.')[2]} below {key.rpartition('.')[0]}, indented"
    same_name = [path for path in paths if path[-1] == key]
    if of_run and key in ABSENT:
        return f"it is not supported: {ABSENT[key]}; leave it out"
    equivalent = (meaning(f"{section[-1]}_{key}" if section else key) or meaning(key)) if of_run else None
    if equivalent and not same_name:
        return f"use {'--' * as_option}{equivalent}"
    similar_here = [(*section, name) for name in get_close_matches(key, section_keys, n=1)]
    similar = get_close_matches(key, [path[-1] for path in paths], n=1)
    candidates = same_name or similar_here or [path for path in paths if path[-1] in similar]
    if not candidates:
        owner = dotted_path(section) if section_keys and section else "a recipe"
        return f"{owner} has {', '.join(section_keys or known[()])}"
    if candidates is similar_here and not as_option:
        return f"did you mean {similar_here[0][-1]}?"
    # Fields deep inside optional sections are rarely meant.
    shallow = [".".join(path) for path in candidates if len(path) == min(map(len, candidates))]
    if equivalent and equivalent.partition(" ")[0] not in shallow:
        shallow.append(equivalent)
    return f"did you mean {' or '.join('--' * as_option + path for path in shallow)}?"


def _inside(values: Any, at: Location) -> Any:
    """Return the value at a path of a recipe, or None."""
    for part in at:
        items = values if isinstance(values, dict) else dict(enumerate(values)) if isinstance(values, list) else {}
        values = items.get(int(part) if isinstance(values, list) and part.isdecimal() else part)
    return values


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
