"""Recipes from strict YAML and options, and back to YAML. A mistake is one line: file and line, field, what to do.

An option `--section.key value` replaces what the file says; its value is YAML too: `--model.lora null`,
`--rewards.0.weight 2`, `--training.trainer '{bf16: true}'`. Sections and list entries that it needs are made, and text
for a section with a path is its path: `--model MODEL` is `--model.path MODEL`.

Relative paths in a file (`model.path`, `data.path`, `data.test_path`, the files of a reward) are looked up in the
working directory and, if nothing is there, beside the recipe; those in the `recipe.yaml` of a run the other way around.
What is in neither place is left as it is: it may be a hub id. Paths in options are left alone.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from glob import iglob
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from grao.config.mistakes import Given, described, dotted
from grao.config.recipe import Recipe
from grao.config.schema import adapter, field_facts, general, names, sections
from grao.config.strict_yaml import Location, read_yaml, write_inline, write_yaml
from grao.errors import InputError
from grao.files import read_text

Root = TypeVar("Root")
Overrides = Sequence[tuple[str, str]]
"""Dotted field and YAML text, in the order of the command line."""

_REWARDS = ("rewards", "0"), ("judges", "0"), ("watch", "reward"), ("audit", "second")
_REWARD_FILES = "function", "judge.criterion", "judge.ledger", "judge.local.path", "model.path", "rule.embedding.model"
_FILES = {("model", "path"), ("data", "path"), ("data", "test_path"), ("recipe",)}
_FILES |= {(*reward, *field.split(".")) for reward in _REWARDS for field in _REWARD_FILES}
"""Fields that are looked up beside the recipe."""

_LARGEST = 1 << 20
"""Bytes of the largest recipe."""


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
        InputError: one line on all mistakes, with file and line or the option; on unknown keys alone if there are any.
    """
    given = Given(root, {}, None, {}) if path is None else _read(root, path)
    for name, value in values:
        given = _set(given, name, value)
    for name, text in overrides:
        given = _set(given, name, _parsed(name, text), text)
    try:  # as JSON: only there strict means no text for a number, but text for a path
        return adapter(root).validate_json(json.dumps(given.values), strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InputError(described(error, given)) from error


def dump_recipe(recipe: Any) -> str:
    """A recipe of any kind as YAML, defaults included, with a comment on each field. `load_config` reads it back."""
    root: type = type(recipe)
    values = adapter(root).dump_python(recipe, mode="json", by_alias=True)
    docs: dict[Location, str] = {}
    for section in sections(root):
        if section.variant is None or section.variant in _kinds(values, section.path):
            docs[tuple(part for part in section.path if part != "0")] = section.doc
            docs |= {item.path: item.doc for item in section.fields}
    text = write_yaml(values)
    commented = {line: at for at, line in read_yaml(text).lines.items() if at in docs}
    lines: list[str] = []
    for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
        if at := commented.get(number):
            indent = " " * (len(line) - len(line.lstrip()))
            lines += [""] * (len(at) == 1 and number > 1) + [f"{indent}# {' '.join(docs[at].split())}"]
        lines.append(line)
    return "\n".join(lines) + "\n"


def _kinds(values: Any, path: Location) -> set[str]:
    """The names of the sections at a path; of those in a list, each one's."""
    if isinstance(values, list):
        return {name for entry in values for name in _kinds(entry, path[1:])}
    return _kinds(values.get(path[0]), path[1:]) if path else {values["name"]}


def _read(root: type, path: Path) -> Given:
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder; {_inside(path)}")
    if (text := read_text(path, _LARGEST)) is None:
        raise InputError(f"{path} does not exist; give a recipe file")
    if path.suffix == ".json":
        text = text.replace("\t", "  ")  # indents JSON, but not YAML
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
    return Given(root, _beside(document.value, path.parent), path, dict(document.lines))


def _inside(folder: Path) -> str:
    """What to give in place of a folder."""
    recipes = sorted(file.name for file in folder.iterdir() if file.suffix in (".yaml", ".yml", ".json"))
    if "recipe.yaml" in recipes and "manifest.json" in recipes:
        return f"it holds a run: go on with grao train --resume {folder}, or give {folder / 'recipe.yaml'}"
    if recipes:
        return f"give a file in it, such as {folder / recipes[0]}"
    return "give a recipe file"


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
    hidden = _is_there(file) and not (folder / "manifest.json").exists()
    return f"{beside}{colon}{name}" if is_file and not hidden and _is_there(beside) else value


def _is_there(file: str) -> bool:
    """Whether there is such a file, or one that such a pattern means."""
    return os.path.exists(file) or ("\0" not in file and any(iglob(file)))


def _parsed(name: str, text: str) -> Any:
    """The value of an option."""
    try:
        return read_yaml(text).value
    except InputError as error:
        option, problem = f"--{dotted(tuple(name.split('.')))}", str(error).partition(": ")[2]
        raise InputError(f"{option}: {problem}; put the value in quotes twice: '\"...\"'") from error


def _set(given: Given, name: str, value: Any, text: str | None = None) -> Given:
    """The value at its dotted name, and remembered as coming from an option.

    Its `text`, or else how YAML writes it, is taken where a number or a truth value is meant as text. Text for a
    section that has a path is that path: `--model MODEL` is `--model.path MODEL`.
    """
    at = tuple(name.split("."))
    if text is not None and isinstance(value, str) and "path" in names(given.root).get(general(at), ()):
        at = (*at, "path")
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
    option, here = f"--{dotted((*above, *at))}", (*above, key)
    if container is None:
        container = [] if (*above, "0") in names(root) else {}
    if isinstance(container, dict):
        return {**container, key: _placed(root, container.get(key), tuple(rest), value, here)}
    if not isinstance(container, list):
        raise InputError(f"{option} is unknown; {dotted(above)} is no section")
    position = int(key) if re.fullmatch("[0-9]{1,6}", key) else len(container) + 1
    if position > len(container):
        raise InputError(f"{option}: {dotted(above)} has {len(container)} entries; the next is {len(container)}")
    before, (entry, *after) = container[:position], container[position:] or [None]
    return [*before, _placed(root, entry, tuple(rest), value, here), *after]
