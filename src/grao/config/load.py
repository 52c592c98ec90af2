"""Load recipes from strict YAML and options, and dump them as YAML. Errors are one line: file, line, field, advice.

An option `--section.key value` overrides the file. Its value is YAML too: `--model.lora null`, `--rewards.0.weight 2`,
`--training.trainer '{bf16: true}'`. Missing sections and list entries are created. Text for a section that has a `path`
is that path: `--model MODEL` means `--model.path MODEL`.

Relative paths in a file (`model.path`, `data.path`, `data.test_path`, files of a reward) are looked up in the working
directory first, then in the folder of the recipe; for the `recipe.yaml` of a run in the opposite order. A path found in
neither is kept, as it may be a hub id. Paths in options are not changed.
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

from grao.config.mistakes import Given, described, dotted_path
from grao.config.recipe import Recipe
from grao.config.schema import adapter, field_facts, general, names, sections
from grao.config.strict_yaml import Location, read_yaml, write_inline, write_yaml
from grao.errors import InputError
from grao.files import read_text

Root = TypeVar("Root")
Overrides = Sequence[tuple[str, str]]
"""Pairs of dotted field and YAML text, in the order of the command line."""

_REWARDS = ("rewards", "0"), ("judges", "0"), ("watch", "reward"), ("audit", "second")
_REWARD_FILES = "function", "judge.criterion", "judge.ledger", "judge.local.path", "model.path", "rule.embedding.model"
_FILES = {("model", "path"), ("data", "path"), ("data", "test_path"), ("recipe",)}
_FILES |= {(*reward, *field.split(".")) for reward in _REWARDS for field in _REWARD_FILES}
"""Fields whose files may be in the folder of the recipe."""

_LARGEST = 1 << 20
"""Largest recipe file, in bytes."""


def load_recipe(path: Path | None, overrides: Overrides = (), values: Sequence[tuple[str, Any]] = ()) -> Recipe:
    """Load the recipe of a training run; see `load_config`."""
    return load_config(Recipe, path, overrides, values)


def load_config(
    root: type[Root], path: Path | None, overrides: Overrides = (), values: Sequence[tuple[str, Any]] = ()
) -> Root:
    """Load and validate a recipe of any kind.

    Args:
        root: class of the recipe.
        path: the file; None if options specify everything.
        overrides: options as pairs of dotted field and YAML text, such as `("rollout.group_size", "4")`. Later ones
            take precedence.
        values: pairs of dotted field and plain value, such as `("rollout.group_size", 4)`. They take precedence over
            the file, and options over them.

    Returns:
        The recipe, including defaults.

    Raises:
        InputError: if the recipe is invalid. The message lists all problems in one line, each with file and line or
            with the option; if there are unknown keys, it lists only these.
    """
    given = Given(root, {}, None, {}) if path is None else _read(root, path)
    for name, value in values:
        given = _set(given, name, value)
    for name, text in overrides:
        given = _set(given, name, _parsed(name, text), text)
    try:  # in JSON mode, strict rejects text for a number but accepts text for a path
        return adapter(root).validate_json(json.dumps(given.values), strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InputError(described(error, given)) from error


def dump_recipe(recipe: Any) -> str:
    """Dump a recipe of any kind as YAML, including defaults, with a comment on each field. Inverse of `load_config`."""
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
    """Return the names of the variants used at a path; for a list, those of all entries."""
    if isinstance(values, list):
        return {name for entry in values for name in _kinds(entry, path[1:])}
    return _kinds(values.get(path[0]), path[1:]) if path else {values["name"]}


def _read(root: type, path: Path) -> Given:
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder; {_advice(path)}")
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
        raise InputError(f"{path}, line 1: a recipe must be a mapping of sections (model: ...), not a list or text")
    return Given(root, _resolved(document.value, path.parent), path, dict(document.lines))


def _advice(folder: Path) -> str:
    """Return advice on what to give instead of a folder."""
    recipes = sorted(file.name for file in folder.iterdir() if file.suffix in (".yaml", ".yml", ".json"))
    if "recipe.yaml" in recipes and "manifest.json" in recipes:
        return f"it contains a run: resume it with grao train --resume {folder}, or give {folder / 'recipe.yaml'}"
    if recipes:
        return f"give a file in it, such as {folder / recipes[0]}"
    return "give a recipe file"


def _resolved(value: Any, folder: Path, at: Location = ()) -> Any:
    """Prepend the folder of the recipe to paths of files in it, unless the working directory takes precedence."""
    if isinstance(value, dict):
        return {key: _resolved(item, folder, (*at, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, folder, (*at, "0")) for item in value]
    prefix = {"base": 1, "arms": 2}.get(at[0] if at else "", 0)  # keys above the fields of a recipe in a study
    if not value or not isinstance(value, str) or at[prefix:] not in _FILES:
        return value
    file, colon, name = value.rpartition(":") if at[-1] == "function" else (value, "", "")
    # A function of a package and the name of a criterion are not files; a ledger without a dot is in the working
    # directory.
    is_file = file.endswith(".py") if at[-1] == "function" else "." in file or at[-1] not in ("criterion", "ledger")
    in_folder = os.path.join(folder, file)
    shadowed = _exists(file) and not (folder / "manifest.json").exists()
    return f"{in_folder}{colon}{name}" if is_file and not shadowed and _exists(in_folder) else value


def _exists(file: str) -> bool:
    """Whether the file, or a file that matches the pattern, exists."""
    return os.path.exists(file) or ("\0" not in file and any(iglob(file)))


def _parsed(name: str, text: str) -> Any:
    """Parse the value of an option."""
    try:
        return read_yaml(text).value
    except InputError as error:
        option, problem = f"--{dotted_path(tuple(name.split('.')))}", str(error).partition(": ")[2]
        raise InputError(f"{option}: {problem}; quote the value twice: '\"...\"'") from error


def _set(given: Given, name: str, value: Any, text: str | None = None) -> Given:
    """Set a value at its dotted name and record that it came from an option.

    If the field takes text and the value is a number or boolean, use its `text`, or else its YAML form. Text for a
    section that has a `path` is that path: `--model MODEL` means `--model.path MODEL`.
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
    """Return a copy of the container with the value set at `at`; create missing lists and sections on the way."""
    if not at:
        return value
    key, *rest = at
    option, key_path = f"--{dotted_path((*above, *at))}", (*above, key)
    if container is None:
        container = [] if (*above, "0") in names(root) else {}
    if isinstance(container, dict):
        return {**container, key: _placed(root, container.get(key), tuple(rest), value, key_path)}
    if not isinstance(container, list):
        raise InputError(f"{option} is unknown; {dotted_path(above)} is not a section")
    position = int(key) if re.fullmatch("[0-9]{1,6}", key) else len(container) + 1
    if position > len(container):
        entries = len(container)
        raise InputError(f"{option}: {dotted_path(above)} has {entries} entries; the next index is {entries}")
    before, (entry, *after) = container[:position], container[position:] or [None]
    return [*before, _placed(root, entry, tuple(rest), value, key_path), *after]
