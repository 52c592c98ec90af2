"""How to reproduce the run behind a page: the settings that differ from the defaults, and the command.

Pages are shared beyond the machine that made them. Absolute paths are therefore shortened to their last part: no home
folder appears on a page, and copied commands work wherever the named files are in the working directory.
"""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml

from grao.config.arms import flattened
from grao.config.recipe import Recipe
from grao.config.schema import field_facts, general, sections, variants
from grao.config.strict_yaml import Location
from grao.records.run import Manifest

_ABSOLUTE = re.compile(r"^(?:/|~|[A-Za-z]:[\\/]).+")
_LINE = re.compile(r"""^(\s*(?:- )*(?:[\w.+-]+: )?)(["']?)((?:/|~|[A-Za-z]:[\\/]).+?)(\2)$""", re.MULTILINE)
"""A line of YAML whose value is an absolute path."""
_WRITTEN = ("output", "ledger")
"""Suffixes of the fields that name files which a run writes, not reads."""


def template_variables(manifest: Manifest) -> dict[str, Any]:
    """Return the template variables `model`, `facts`, `command`, `scripted`, `changed`, `files` and `recipe`."""
    recorded = manifest.model_dump(mode="json", exclude_unset=True, exclude={"config", "decisive"})
    command = recorded.pop("command", None)
    command = "grao train --config recipe.yaml" if command is None else command
    data, versions = recorded.pop("data", {}), recorded.pop("versions", {})
    config = portable(manifest.config)
    changes = differences(config)
    changes.pop("output", None)
    return {
        "model": str(portable(manifest.setting("model", "path")) or ""),
        "facts": {"Data": _text_rows(data), "Run": _text_rows(portable(recorded)), "Versions": _text_rows(versions)},
        "command": _portable_command(command),
        "scripted": started_by_script(manifest),
        "changed": as_yaml(changes),
        "files": list(files(manifest.config)),
        "recipe": as_yaml(config),
    }


def started_by_script(manifest: Manifest) -> bool:
    """Whether a script started the run, so that its folder has no recipe.yaml."""
    command = manifest.command
    return command is not None and not str(command if isinstance(command, str) else " ".join(command)).startswith(
        "grao"
    )


def portable(value: Any) -> Any:
    """Shorten the absolute paths in a value or a tree of values to their last part.

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
    """Shorten the absolute paths in YAML to their last part: `path: /home/me/model` becomes `path: model`."""
    return _LINE.sub(lambda line: f"{line[1]}{line[2]}{portable(line[3])}{line[4]}", text)


def files(config: Mapping[str, Any]) -> list[str]:
    """Distinct last parts of the absolute paths that a recipe reads from."""
    read = (
        portable(value).partition(":")[0] if field.endswith("function") else portable(value)
        for field, value in flattened(config, lists=True)
        if isinstance(value, str) and portable(value) != value and not field.endswith(_WRITTEN)
    )
    return list(dict.fromkeys(read))


def differences(config: Mapping[str, Any], path: Location = ()) -> dict[str, Any]:
    """Return the fields of a recipe that are required or differ from their defaults.

    A recipe with only these fields is equivalent.

    Args:
        config: plain values of a recipe, or of its section at `path`.
        path: of the section within the recipe.
    """
    kinds = variants(general(path))
    chosen = kinds.get(str(config.get("name")))
    chosen_facts = {fact.path[-1]: fact for fact in chosen.fields if fact.path[-1] != "name"} if chosen else {}
    optional = {section.path: section.optional for section in sections()}
    result: dict[str, Any] = {}
    for name, value in config.items():
        field_path = (*path, name)
        field = general(field_path)
        if isinstance(value, Mapping) and field in optional:
            inside = differences(value, field_path)
            if inside or optional[field]:  # an empty section still enables what is off by default
                result[name] = inside
        elif isinstance(value, list) and (*field, "0") in optional:
            result[name] = [differences(entry, (*field_path, "0")) for entry in value]
        else:
            fact = chosen_facts.get(name) or field_facts(Recipe).get(field)
            default = next(iter(kinds)) if kinds and name == "name" else fact.default if fact else None
            if value != default:
                result[name] = value
    return result


def _text_rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Flatten nested values into rows of (dotted name, text)."""
    return [(name, _text(value)) for name, value in flattened(values)]


def _portable_command(command: str | list[str]) -> str:
    try:
        words = shlex.split(command) if isinstance(command, str) else command
    except ValueError:  # unbalanced quotes
        words = str(command).split()
    return shlex.join(map(portable, words))


def as_yaml(config: Mapping[str, Any]) -> str:
    """Dump plain values as YAML; an empty mapping gives an empty text."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True) if config else ""


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False) if value else "none"
    return "none" if value is None else str(value)
