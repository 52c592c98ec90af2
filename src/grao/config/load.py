"""Recipes from strict YAML and options, and back to YAML. A mistake is one line: file and line, field, what to do.

An option `--section.key value` replaces what the file says; its value is YAML too: `--model.lora null`,
`--rewards.0.weight 2`, `--training.trainer '{bf16: true}'`. Sections and list entries that it needs are made.

Relative paths in a file (`model.path`, `data.path`, `data.test_path`, the files of a reward) are looked up in the
working directory and, if nothing is there, beside the recipe. What is in neither place is left as it is: it
may be a hub id. Paths in options are left alone.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from glob import iglob
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from grao.config.other_trainers import ABSENT, OTHER_NAMES
from grao.config.recipe import Recipe
from grao.config.schema import adapter, example, field_facts, general, names, sections, variants, whole
from grao.config.strict_yaml import Location, read_yaml, write_inline, write_yaml
from grao.errors import InputError
from grao.files import read_text

Root = TypeVar("Root")
Overrides = Sequence[tuple[str, str]]
"""Dotted field and YAML text, in the order of the command line."""

_REWARDS = ("rewards", "0"), ("watch", "reward"), ("audit", "second")
_REWARD_FILES = "function", "judge.criterion", "judge.ledger", "judge.local.path", "model.path", "rule.embedding.model"
_FILES = {("model", "path"), ("data", "path"), ("data", "test_path"), ("recipe",)}
_FILES |= {(*reward, *field.split(".")) for reward in _REWARDS for field in _REWARD_FILES}
"""Fields that are looked up beside the recipe."""

_LARGEST = 1 << 20
"""Bytes of the largest recipe."""
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
    "union_tag_not_found": "a section (keys with values)",
}
"""pydantic's error types -> what the field must be."""


@dataclass(frozen=True)
class _Given:
    """What the user gave, before it is checked."""

    root: type
    """Class of the recipe."""
    values: dict[str, Any]
    """The recipe as plain values, options applied."""
    file: Path | None
    lines: dict[Location, int | None]
    """Line of every key and entry in the file; None for what an option `--a.b value` sets."""

    def origin(self, at: Location) -> Location | int | None:
        """The option, or else the line, that a value or its closest section came from."""
        for length in range(len(at), 0, -1):
            options = (key for key, line in self.lines.items() if line is None and key[:length] == at[:length])
            if origin := self.lines.get(at[:length]) or next(options, None):
                return origin
        return None

    def where(self, at: Location) -> str:
        """`recipe.yaml, line 4: rollout.group_size` or `--rollout.group_size`."""
        if not at:
            return str(self.file or "the options")
        origin = self.origin(at)
        if origin == at or self.file is None:
            return f"--{_dotted(at)}"
        if isinstance(origin, tuple):
            return f"--{_dotted(origin)}: {_dotted(at)}"
        return f"{self.file}{f', line {origin}' if origin else ''}: {_dotted(at)}"


def load_recipe(path: Path | None, overrides: Overrides = (), values: Sequence[tuple[str, Any]] = ()) -> Recipe:
    """A checked recipe of a run; see `load_config`."""
    return load_config(Recipe, path, overrides, values)


def load_config(
    root: type[Root], path: Path | None, overrides: Overrides = (), values: Sequence[tuple[str, Any]] = ()
) -> Root:
    """Reads and checks a recipe of any kind.

    Args:
        root: its class.
        path: the file; None if the options say everything.
        overrides: options as pairs of dotted field and YAML text, later ones win: `("rollout.group_size", "4")`.
        values: dotted field and plain value, `("rollout.group_size", 4)`; they win over the file, options over them.

    Returns:
        The recipe, with defaults filled in.

    Raises:
        InputError: one line on the first mistake, with file and line or the option.
    """
    given = _Given(root, {}, None, {}) if path is None else _read(root, path)
    for name, value in values:
        given = _set(given, name, value)
    for name, text in overrides:
        given = _set(given, name, _parsed(name, text), text)
    try:  # as JSON: only there strict means no text for a number, but text for a path
        return adapter(root).validate_json(json.dumps(given.values), strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InputError(_describe(error, given)) from error


def dump_recipe(recipe: Any) -> str:
    """A recipe of any kind as YAML, defaults included, with a comment on each field. `load_config` reads it back."""
    root: type = type(recipe)
    values = adapter(root).dump_python(recipe, mode="json", by_alias=True)
    docs: dict[Location, str] = {}
    for section in sections(root):
        if section.variant is None or values[section.path[0]]["name"] == section.variant:
            docs[tuple(part for part in section.path if part != "0")] = section.doc
            docs |= {item.path: item.doc for item in section.fields}
    text = write_yaml(values)
    commented = {line: at for at, line in read_yaml(text).lines.items() if at in docs}
    lines: list[str] = []
    for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
        if at := commented.get(number):
            indent = " " * (len(line) - len(line.lstrip()))
            lines += [""] * (len(at) == 1 and number > 1) + [f"{indent}# {docs[at]}"]
        lines.append(line)
    return "\n".join(lines) + "\n"


def _dotted(at: Location) -> str:
    """`rollout.group_size`; parts that are no plain words in quotes."""
    return ".".join(_shortened(part if part.isdecimal() else write_inline(part)) for part in at)


def _describe(error: ValidationError, given: _Given) -> str:
    """The first mistake of a recipe in one line, and how many more there are.

    Unknown keys come first, since they often explain what is missing; then the order of the file.
    """
    mistakes: dict[Location, list[ErrorDetails]] = {}
    for item in error.errors():
        if (at := _location(item, given.values)) is not None:
            mistakes.setdefault(at, []).append(item)

    def rank(at: Location) -> tuple[bool, float]:
        line = 0 if isinstance(origin := given.origin(at), tuple) else origin or float("inf")
        return mistakes[at][0]["type"] != "unexpected_keyword_argument", line

    first, more = min(mistakes, key=rank), len(mistakes) - 1
    rest = f" (and {more} more mistake{'s' if more > 1 else ''})" if more else ""
    return _sentence(first, mistakes[first], given) + rest


def _read(root: type, path: Path) -> _Given:
    if (text := read_text(path, _LARGEST)) is None:
        raise InputError(f"{path} does not exist; give a recipe file")
    try:
        document = read_yaml(text)
    except InputError as error:
        raise InputError(f"{path}, {error}") from error
    if document.value is None:
        needed = [item.path[0] for item in sections(root)[1:] if item.required and item.path[1:] in ((), ("0",))]
        needed += [item.path[0] for item in sections(root)[0].fields if item.required]
        raise InputError(f"{path} is empty; a recipe needs {', '.join(needed)}")
    if not isinstance(document.value, dict):
        raise InputError(f"{path}, line 1: a recipe is a mapping of sections (model: ...), not a list or a text")
    return _Given(root, _beside(document.value, path.parent), path, dict(document.lines))


def _beside(value: Any, folder: Path, at: Location = ()) -> Any:
    """The value, in which files that lie beside the recipe and not in the working directory have their path."""
    if isinstance(value, dict):
        return {key: _beside(inside, folder, (*at, key)) for key, inside in value.items()}
    if isinstance(value, list):
        return [_beside(inside, folder, (*at, "0")) for inside in value]
    above = {"base": 1, "arms": 2}.get(at[0] if at else "", 0)  # these parts of a study are fields of a recipe
    if not value or not isinstance(value, str) or at[above:] not in _FILES:
        return value
    file, colon, name = value.rpartition(":") if at[-1] == "function" else (value, "", "")
    # Not files: a function of a package, a criterion's name. A ledger without a dot belongs to the working directory.
    is_file = file.endswith(".py") if at[-1] == "function" else "." in file or at[-1] not in ("criterion", "ledger")
    beside = os.path.join(folder, file)
    return f"{beside}{colon}{name}" if is_file and not _is_there(file) and _is_there(beside) else value


def _is_there(file: str) -> bool:
    """Whether there is such a file, or one that such a pattern means."""
    return os.path.exists(file) or ("\0" not in file and any(iglob(file)))


def _parsed(name: str, text: str) -> Any:
    """The value of an option."""
    try:
        return read_yaml(text).value
    except InputError as error:
        option, problem = f"--{_dotted(tuple(name.split('.')))}", str(error).partition(": ")[2]
        raise InputError(f"{option}: {problem}; put the value in quotes twice: '\"...\"'") from error


def _set(given: _Given, name: str, value: Any, text: str | None = None) -> _Given:
    """The value at its dotted name, and remembered as coming from an option.

    Its `text`, or else how YAML writes it, is taken where a number or a truth value is meant as text.
    """
    at = tuple(name.split("."))
    facts = field_facts(given.root).get(general(at))
    if facts and "text" in facts.kind.split(" | ") and isinstance(value, bool | int | float):
        value = text or write_inline(value)
    lines = {key: line for key, line in given.lines.items() if key[: len(at)] != at}
    return replace(given, values=_placed(given.root, given.values, at, value), lines={**lines, at: None})


def _placed(root: type, container: Any, at: Location, value: Any, above: Location = ()) -> Any:
    """A copy of the container with the value set at `at`; missing lists and sections on the way are created."""
    if not at:
        return value
    key, *rest = at
    option, here = f"--{_dotted((*above, *at))}", (*above, key)
    if container is None:
        container = [] if (*above, "0") in names(root) else {}
    if isinstance(container, dict):
        return {**container, key: _placed(root, container.get(key), tuple(rest), value, here)}
    if not isinstance(container, list):
        raise InputError(f"{option} is unknown; {_dotted(above)} is no section")
    position = int(key) if re.fullmatch("[0-9]{1,6}", key) else len(container) + 1
    if position > len(container):
        raise InputError(f"{option}: {_dotted(above)} has {len(container)} entries; the next is {len(container)}")
    before, (entry, *after) = container[:position], container[position:] or [None]
    return [*before, _placed(root, entry, tuple(rest), value, here), *after]


def _location(item: ErrorDetails, values: Any) -> Location | None:
    """pydantic's `loc` without the members of unions that it names in between.

    None if a section is reported missing that is there, with a mistake inside that is reported too.
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
    return (*at, str(item["loc"][-1])) if len(at) < len(item["loc"]) else None


def _sentence(at: Location, items: list[ErrorDetails], given: _Given) -> str:
    kind, value, where = items[0]["type"], items[0]["input"], given.where(at)
    as_option = where == f"--{_dotted(at)}"
    if kind == "unexpected_keyword_argument":
        return f"{where} is unknown; {_suggestion(at, as_option, given)}"
    if kind == "union_tag_invalid":
        known, name = variants(general(at[:-1]), given.root), value.get("name")
        hint = "".join(f"; did you mean {near}?" for near in get_close_matches(str(name), known, n=1))
        return f"{where} must be {' or '.join(known)}, got {_shortened(write_inline(name))}{hint}"
    if kind == "missing" and as_option:
        text = example(general(at), given.root)
        while text and isinstance(text, dict | list):  # down to the first plain value
            key, text = next(iter(text.items())) if isinstance(text, dict) else ("0", text[0])
            at = (*at, key)
        return f"--{_dotted(at)} is missing, for example --{_dotted(at)} {text}"
    if kind == "missing":
        return f"{where} is missing, for example {at[-1]}: {write_inline(example(general(at), given.root))}"
    if kind not in _EXPECTED:
        return f"{where}: {items[0]['msg'].removeprefix('Value error, ')}"
    expected = " or ".join(dict.fromkeys(_expected(item) for item in items))
    return f"{where} must be {expected}, got {_shortened(write_inline(value))}"


def _expected(item: ErrorDetails) -> str:
    words = _EXPECTED[item["type"]].format(**{name: whole(value) for name, value in item.get("ctx", {}).items()})
    quotes = item["type"] == "string_type" and isinstance(item["input"], bool | int | float)
    return words.replace("'", "") + " in quotes" * quotes


def _suggestion(at: Location, as_option: bool, given: _Given) -> str:
    """The key that was probably meant, here or in another section; else all keys of this section."""
    section, key, known = at[:-1], at[-1], names(given.root)
    here = known[general(section)]
    if kinds := variants(general(section), given.root):
        name = given.values[section[0]].get("name", next(iter(kinds)))
        keys = {kind: tuple(item.path[-1] for item in facts.fields) for kind, facts in kinds.items()}
        if others := [kind for kind in kinds if key in keys[kind]]:
            return f"{name} has no {key}, {' and '.join(others)} {'has' if len(others) == 1 else 'have'}"
        here = keys[name]
    paths = [(*path, name) for path, names_there in known.items() for name in names_there]
    if tuple(key.split(".")) in paths:
        return f"in a file, write {key.rpartition('.')[2]} below {key.rpartition('.')[0]}, indented"
    same = [path for path in paths if path[-1] == key]
    theirs = OTHER_NAMES.get(key) if "rollout" in known[()] else None
    if "rollout" in known[()] and key in ABSENT:
        return f"it has no place here: {ABSENT[key]}; leave it out"
    if theirs and not same:
        return f"here it is {'--' * as_option}{theirs}"
    near = [(*section, name) for name in get_close_matches(key, here, n=1)]
    alike = get_close_matches(key, [path[-1] for path in paths], n=1)
    meant = same or near or [path for path in paths if path[-1] in alike]
    if not meant:
        return f"{_dotted(section) or 'a recipe'} has {', '.join(here)}"
    if meant is near and not as_option:
        return f"did you mean {near[0][-1]}?"
    # Only those nearest to the top: what lies deep inside optional sections is seldom meant.
    shallow = [".".join(path) for path in meant if len(path) == min(map(len, meant))]
    other = f" TRL's {key} is {theirs}" if theirs and theirs not in shallow else ""
    return f"did you mean {' or '.join('--' * as_option + path for path in shallow)}?{other}"


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
