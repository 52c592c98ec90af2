"""Where a page comes from and how to do it again: what differs from the defaults, the command.

A page travels further than the machine that made it. So absolute paths are shortened to their last part: no home
folder stands on a page, and what is copied from one works wherever the named files lie beside it.
"""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml

from grao.config.arms import dotted
from grao.config.recipe import Recipe
from grao.config.schema import field_facts, general, sections, variants
from grao.config.strict_yaml import Location
from grao.records.run import Manifest

_ABSOLUTE = re.compile(r"^(?:/|~|[A-Za-z]:[\\/]).+")
_LINE = re.compile(r"""^(\s*(?:- )*(?:[\w.+-]+: )?)(["']?)((?:/|~|[A-Za-z]:[\\/]).+?)(\2)$""", re.MULTILINE)
"""A line of YAML whose value is an absolute path."""
_ELSEWHERE = ("output", "ledger")
"""Ends of the fields that name what a run writes, not what it reads."""


def origin(manifest: Manifest) -> dict[str, Any]:
    """What the templates say: `model`, `facts`, `command`, `scripted`, `changed`, `files`, `recipe`."""
    recorded = manifest.model_dump(mode="json", exclude_unset=True, exclude={"config", "decisive"})
    command = recorded.pop("command", None)
    command = "grao train --config recipe.yaml" if command is None else command
    data, versions = recorded.pop("data", {}), recorded.pop("versions", {})
    config = portable(manifest.config)
    changes = differences(config)
    changes.pop("output", None)
    return {
        "model": str(portable(manifest.setting("model", "path")) or ""),
        "facts": {"Data": flat(data), "Run": flat(portable(recorded)), "Versions": flat(versions)},
        "command": _portable_command(command),
        "scripted": scripted(manifest),
        "changed": as_yaml(changes),
        "files": list(files(manifest.config)),
        "recipe": as_yaml(config),
    }


def scripted(manifest: Manifest) -> bool:
    """Whether a script made the run, so that there is no recipe.yaml in its folder."""
    command = manifest.command
    return command is not None and not str(command if isinstance(command, str) else " ".join(command)).startswith(
        "grao"
    )


def portable(value: Any) -> Any:
    """A value, or a tree of them, with absolute paths shortened to their last part.

    Example: `/home/me/rewards.py:short` becomes `rewards.py:short`.
    """
    if isinstance(value, Mapping):
        return {name: portable(inside) for name, inside in value.items()}
    if isinstance(value, list):
        return [portable(entry) for entry in value]
    if not isinstance(value, str) or "\n" in value or not _ABSOLUTE.match(value):
        return value
    return PurePosixPath(value.replace("\\", "/")).name or value


def portable_text(text: str) -> str:
    """YAML with absolute paths shortened to their last part: `path: /home/me/model` becomes `path: model`."""
    return _LINE.sub(lambda line: f"{line[1]}{line[2]}{portable(line[3])}{line[4]}", text)


def files(config: Mapping[str, Any]) -> list[str]:
    """The last parts of the absolute paths that a recipe reads from, each once."""
    read = (
        portable(value).partition(":")[0] if field.endswith("function") else portable(value)
        for field, value in dotted(config, lists=True)
        if isinstance(value, str) and portable(value) != value and not field.endswith(_ELSEWHERE)
    )
    return list(dict.fromkeys(read))


def differences(config: Mapping[str, Any], path: Location = ()) -> dict[str, Any]:
    """The fields of a recipe that are required or differ from their defaults; a recipe with these alone is the same.

    Args:
        config: plain values of a recipe, or of its section at `path`.
        path: where it stands.
    """
    kinds = variants(general(path))
    chosen = kinds.get(str(config.get("name")))
    own = {fact.path[-1]: fact for fact in chosen.fields if fact.path[-1] != "name"} if chosen else {}
    optional = {section.path: section.optional for section in sections()}
    result: dict[str, Any] = {}
    for name, value in config.items():
        at = (*path, name)
        place = general(at)
        if isinstance(value, Mapping) and place in optional:
            inside = differences(value, at)
            if inside or optional[place]:  # an empty one still switches on what is off by default
                result[name] = inside
        elif isinstance(value, list) and (*place, "0") in optional:
            result[name] = [differences(entry, (*at, "0")) for entry in value]
        else:
            fact = own.get(name) or field_facts(Recipe).get(place)
            default = next(iter(kinds)) if kinds and name == "name" else fact.default if fact else None
            if value != default:
                result[name] = value
    return result


def flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Nested values as rows of (dotted name, text)."""
    return [(name, _text(value)) for name, value in dotted(values)]


def _portable_command(command: str | list[str]) -> str:
    try:
        words = shlex.split(command) if isinstance(command, str) else command
    except ValueError:  # a quote that is not closed
        words = str(command).split()
    return shlex.join(map(portable, words))


def as_yaml(config: Mapping[str, Any]) -> str:
    """Plain values as YAML; empty for none."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True) if config else ""


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False) if value else "none"
    return "none" if value is None else str(value)
