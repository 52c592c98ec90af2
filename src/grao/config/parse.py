"""Recipes from strict YAML and options, and back to YAML.

An option `--section.key value` replaces what the file says; its value is YAML too: `--model.lora null`,
`--rewards.0.weight 2`, `--training.trainer '{bf16: true}'`. Sections and list entries that it needs are made.

Relative paths in a file (`model.path`, `data.path`, `data.test_path`, the file of a reward) are looked up in the
working directory and, if nothing is there, beside the recipe. What is in neither place is left as it is: it
may be a hub id. Paths in options are left alone.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from grao.config.fields import ADAPTER, field_facts, general, sections
from grao.config.mistakes import Given, describe, dotted
from grao.config.recipe import Recipe
from grao.config.strict_yaml import Location, read_yaml, write_yaml
from grao.errors import InputError

_PATHS = (("model", "path"), ("data", "path"), ("data", "test_path"))


def load_recipe(path: Path | None, overrides: Sequence[tuple[str, str]] = ()) -> Recipe:
    """A checked recipe.

    Args:
        path: the file; None if the options say everything.
        overrides: dotted field and YAML text, later ones win: `("rollout.group_size", "4")`.

    Raises:
        InputError: one line on the first mistake, with file and line or the option.
    """
    given = Given({}, None, {}) if path is None else _read(path)
    for name, text in overrides:
        given = _override(given, tuple(name.split(".")), text)
    try:
        # As JSON, because only there strict means: no text for a number, but text for a path.
        return ADAPTER.validate_json(json.dumps(given.values), strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InputError(describe(error, given)) from error


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, defaults included, with a comment on each field. `load_recipe` reads it back."""
    text = write_yaml(ADAPTER.dump_python(recipe, mode="json", by_alias=True))
    docs = {item.path: item.doc for item in field_facts().values()}
    docs |= {tuple(part for part in item.path if part != "0"): item.doc for item in sections()}
    comments = {line: (at, docs[at]) for at, line in read_yaml(text).lines.items() if at in docs}
    lines: list[str] = []
    for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
        if number in comments:
            at, doc = comments[number]
            indent = " " * (len(line) - len(line.lstrip()))
            lines += [""] * (len(at) == 1 and number > 1) + [f"{indent}# {doc}"]
        lines.append(line)
    return "\n".join(lines) + "\n"


def _read(path: Path) -> Given:
    try:
        document = read_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; give a recipe file") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder; give the recipe file in it") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; a recipe is a YAML file") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except InputError as error:
        raise InputError(f"{path}, {error}") from error
    if document.value is None:
        needed = ", ".join(_required())
        raise InputError(f"{path} is empty; a recipe needs {needed}")
    if not isinstance(document.value, dict):
        raise InputError(f"{path}, line 1: a recipe is a mapping of sections (model: ...), not a list or a text")
    return Given(_looked_up(document.value, path.parent), path, document.lines)


def _required() -> list[str]:
    inside = [item.path[0] for item in sections() if item.required and item.path]
    return inside + [item.path[0] for item in sections()[0].fields if item.required]


def _looked_up(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values with the paths of files that lie beside the recipe and not in the working directory."""
    for section, key in _PATHS:
        inside = values.get(section)
        if isinstance(inside, dict) and isinstance(inside.get(key), str):
            values = {**values, section: {**inside, key: _find(inside[key], folder)}}
    rewards = values.get("rewards")
    if isinstance(rewards, list):
        values = {**values, "rewards": [_reward_looked_up(reward, folder) for reward in rewards]}
    return values


def _reward_looked_up(reward: Any, folder: Path) -> Any:
    function = reward.get("function") if isinstance(reward, dict) else None
    file, colon, name = function.rpartition(":") if isinstance(function, str) else ("", "", "")
    return {**reward, "function": _find(file, folder) + colon + name} if file.endswith(".py") else reward


def _find(path: str, folder: Path) -> str:
    beside = os.path.join(folder, path)
    return beside if path and not os.path.exists(path) and os.path.exists(beside) else path


def _override(given: Given, at: Location, text: str) -> Given:
    """The option's value in its place, and remembered as coming from the option."""
    try:
        value = read_yaml(text).value
    except InputError as error:
        problem = str(error).partition(": ")[2]
        raise InputError(f"--{dotted(at)}: {problem}; put the value in quotes twice: '\"...\"'") from error
    facts = field_facts().get(general(at))
    if facts and facts.takes_text and isinstance(value, bool | int | float):
        value = text
    kept = tuple(option for option in given.options if option[: len(at)] != at)
    lines = {place: line for place, line in given.lines.items() if place[: len(at)] != at}
    return Given(_placed(given.values, at, value, ()), given.file, lines, (*kept, at))


def _placed(container: Any, at: Location, value: Any, above: Location) -> Any:
    """A copy of the container with the value at its place; what is missing on the way is made."""
    if not at:
        return value
    key, rest = at[0], at[1:]
    option = f"--{dotted((*above, *at))}"
    if container is None:
        container = [] if (*above, "0") in {item.path for item in sections()} else {}
    if isinstance(container, dict):
        return {**container, key: _placed(container.get(key), rest, value, (*above, key))}
    if not isinstance(container, list):
        raise InputError(f"{option} is unknown; {dotted(above)} is no section")
    position = int(key) if re.fullmatch("[0-9]{1,6}", key) else len(container) + 1
    if position > len(container):
        raise InputError(f"{option}: {dotted(above)} has {len(container)} entries; the next is {len(container)}")
    entry = container[position] if position < len(container) else None
    placed = _placed(entry, rest, value, (*above, key))
    return [*container[:position], placed, *container[position + 1 :]]
