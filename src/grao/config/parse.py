"""Recipes from strict YAML and options, and back to YAML.

An option `--section.key value` replaces what the file says; its value is YAML too: `--model.lora null`,
`--rewards.0.weight 2`, `--training.trainer '{bf16: true}'`. Sections and list entries that it needs are made.

Relative paths in a file (`model.path`, `data.path`, `data.test_path`, the files of a reward) are looked up in the
working directory and, if nothing is there, beside the recipe. What is in neither place is left as it is: it
may be a hub id. Paths in options are left alone.
"""

import json
import os
import re
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from grao.config.fields import adapter, field_facts, general, sections
from grao.config.mistakes import Given, describe, dotted
from grao.config.recipe import Recipe
from grao.config.strict_yaml import Location, read_yaml, write_yaml
from grao.errors import InputError

_PATHS = (("model", "path"), ("data", "path"), ("data", "test_path"), ("recipe",))
_REWARD_PATHS = (("model", "path"), ("rule", "embedding", "model"))

Root = TypeVar("Root")


def load_recipe(path: Path | None, overrides: Sequence[tuple[str, str]] = ()) -> Recipe:
    """A checked recipe of a run; see `load_config`."""
    return load_config(Recipe, path, overrides)


def load_config(root: type[Root], path: Path | None, overrides: Sequence[tuple[str, str]] = ()) -> Root:
    """A checked recipe of any kind.

    Args:
        root: its class.
        path: the file; None if the options say everything.
        overrides: dotted field and YAML text, later ones win: `("rollout.group_size", "4")`.

    Raises:
        InputError: one line on the first mistake, with file and line or the option.
    """
    given = Given({}, None, {}, root=root) if path is None else _read(root, path)
    for name, text in overrides:
        given = _override(given, tuple(name.split(".")), text)
    try:
        # As JSON, because only there strict means: no text for a number, but text for a path.
        text = json.dumps(given.values)
        checked: Root = adapter(given.root).validate_json(text, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InputError(describe(error, given)) from error
    return checked


def dump_recipe(recipe: Any) -> str:
    """A recipe of any kind as YAML, defaults included, with a comment on each field. `load_config` reads it back."""
    root: type = type(recipe)
    text = write_yaml(adapter(root).dump_python(recipe, mode="json", by_alias=True))
    values = read_yaml(text).value
    docs = {item.path: item.doc for item in field_facts(root).values()}
    for section in sections(root):
        chosen = section.variant is None or values[section.path[0]]["name"] == section.variant
        if chosen:
            docs[tuple(part for part in section.path if part != "0")] = section.doc
            docs |= {item.path: item.doc for item in section.fields} if section.variant else {}
    comments = {line: (at, docs[at]) for at, line in read_yaml(text).lines.items() if at in docs}
    lines: list[str] = []
    for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
        if number in comments:
            at, doc = comments[number]
            indent = " " * (len(line) - len(line.lstrip()))
            lines += [""] * (len(at) == 1 and number > 1) + [f"{indent}# {doc}"]
        lines.append(line)
    return "\n".join(lines) + "\n"


def _read(root: type, path: Path) -> Given:
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
        needed = ", ".join(_required(root))
        raise InputError(f"{path} is empty; a recipe needs {needed}")
    if not isinstance(document.value, dict):
        raise InputError(f"{path}, line 1: a recipe is a mapping of sections (model: ...), not a list or a text")
    return Given(_looked_up(document.value, path.parent), path, document.lines, root=root)


def _required(root: type) -> list[str]:
    top = [item for item in sections(root) if item.path and item.path[1:] in ((), ("0",))]
    inside = [item.path[0] for item in top if item.required]
    return inside + [item.path[0] for item in sections(root)[0].fields if item.required]


def _looked_up(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values with the paths of files that lie beside the recipe and not in the working directory."""
    for at in _PATHS:
        values = _found(values, at, folder)
    rewards = values.get("rewards")
    if isinstance(rewards, list):
        values = {**values, "rewards": [_reward_looked_up(reward, folder) for reward in rewards]}
    for name, inside in (("watch", "reward"), ("audit", "second")):
        section = values.get(name)
        if isinstance(section, dict) and inside in section:
            values = {**values, name: {**section, inside: _reward_looked_up(section[inside], folder)}}
    arms = values.get("arms")
    if isinstance(arms, dict):
        values = {**values, "arms": {name: _section_looked_up(arm, folder) for name, arm in arms.items()}}
    return {**values, "base": _section_looked_up(values["base"], folder)} if "base" in values else values


def _section_looked_up(section: Any, folder: Path) -> Any:
    """Part of a study: itself fields of a recipe."""
    return _looked_up(section, folder) if isinstance(section, dict) else section


def _reward_looked_up(reward: Any, folder: Path) -> Any:
    if not isinstance(reward, dict):
        return reward
    function, judge = reward.get("function"), reward.get("judge")
    file, colon, name = function.rpartition(":") if isinstance(function, str) else ("", "", "")
    if file.endswith(".py"):
        reward = {**reward, "function": _find(file, folder) + colon + name}
    if isinstance(judge, dict):
        reward = {**reward, "judge": _judge_looked_up(judge, folder)}
    for at in _REWARD_PATHS:
        reward = _found(reward, at, folder)
    return reward


def _judge_looked_up(judge: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A criterion without a dot is a name, not a file; a ledger that is not there is made in the working directory."""
    for key in ("criterion", "ledger"):
        if isinstance(judge.get(key), str) and "." in judge[key]:
            judge = {**judge, key: _find(judge[key], folder)}
    local = judge.get("local")
    if isinstance(local, dict) and isinstance(local.get("path"), str):
        judge = {**judge, "local": {**local, "path": _find(local["path"], folder)}}
    return judge


def _found(values: Any, at: Location, folder: Path) -> Any:
    """The values with the path at this place looked up, if they hold one there."""
    if not at:
        return _find(values, folder) if isinstance(values, str) else values
    if not isinstance(values, dict) or at[0] not in values:
        return values
    return {**values, at[0]: _found(values[at[0]], at[1:], folder)}


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
    facts = field_facts(given.root).get(general(at))
    if facts and facts.takes_text and isinstance(value, bool | int | float):
        value = text
    kept = tuple(option for option in given.options if option[: len(at)] != at)
    lines = {place: line for place, line in given.lines.items() if place[: len(at)] != at}
    lists = {item.path[:-1] for item in sections(given.root) if item.path[-1:] == ("0",)}
    return replace(given, values=_placed(given.values, at, value, (), lists), lines=lines, options=(*kept, at))


def _placed(container: Any, at: Location, value: Any, above: Location, lists: Set[Location]) -> Any:
    """A copy of the container with the value at its place; what is missing on the way is made, as list or section."""
    if not at:
        return value
    key, rest = at[0], at[1:]
    option = f"--{dotted((*above, *at))}"
    if container is None:
        container = [] if above in lists else {}
    if isinstance(container, dict):
        return {**container, key: _placed(container.get(key), rest, value, (*above, key), lists)}
    if not isinstance(container, list):
        raise InputError(f"{option} is unknown; {dotted(above)} is no section")
    position = int(key) if re.fullmatch("[0-9]{1,6}", key) else len(container) + 1
    if position > len(container):
        raise InputError(f"{option}: {dotted(above)} has {len(container)} entries; the next is {len(container)}")
    entry = container[position] if position < len(container) else None
    placed = _placed(entry, rest, value, (*above, key), lists)
    return [*container[:position], placed, *container[position + 1 :]]
