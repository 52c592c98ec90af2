"""`manifest.json` as the page needs it: how far the run came and what made it. Every key may be missing."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from grao.errors import InputError

_COMPLETE = frozenset({"finished", "completed", "complete", "done"})


@dataclass(frozen=True)
class Manifest:
    """What is known about how a run was made; None or empty where the record does not say."""

    config: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """All the rest, as it was recorded."""
    versions: Mapping[str, Any] = field(default_factory=dict)
    status: str | None = None
    started: str | None = None
    finished: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the run came to its end."""
        return self.finished is not None if self.status is None else self.status in _COMPLETE

    @property
    def seconds(self) -> float | None:
        """From start to end, None where the record does not hold both as ISO times."""
        try:
            return (
                datetime.fromisoformat(self.finished or "") - datetime.fromisoformat(self.started or "")
            ).total_seconds()
        except (ValueError, TypeError):
            return None

    @property
    def command(self) -> str:
        """What repeats the run: the recorded command, or the one that runs the recipe below."""
        recorded = self.provenance.get("command") or ["grao", "train", "recipe.yaml"]
        return shlex.join(map(str, recorded)) if isinstance(recorded, list) else str(recorded)

    @property
    def model(self) -> str:
        """The starting model by name: of a local folder its last part, of the hub the whole id."""
        path = str(self.setting("model", "path") or "")
        return Path(path).name if path.startswith((".", "/", "~")) else path

    def setting(self, section: str, name: str) -> Any:
        """One value of the recipe, None where it is not recorded."""
        return _mapping(self.config.get(section)).get(name)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a run folder, None where there is none.

    Raises:
        InputError: the file is not a JSON object.
    """
    path = folder / "manifest.json"
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); delete the file to report without it") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a JSON object; delete the file to report without it")
    return manifest_of(values)


def manifest_of(record: Mapping[str, Any]) -> Manifest:
    """The manifest out of what was recorded."""
    values = dict(record)
    return Manifest(
        config=_mapping(values.pop("config", None)),
        data=_mapping(values.pop("data", None)),
        versions=_mapping(values.pop("versions", None)),
        status=_optional_text(values.get("status")),
        started=_optional_text(values.get("started")),
        finished=_optional_text(values.get("finished")),
        provenance=values,
    )


def settings(config: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """The recipe by section: name -> (setting, value); what stands outside a section comes first, as `run`."""
    sections: dict[str, list[tuple[str, str]]] = {"run": []}
    for name, value in config.items():
        if isinstance(value, Mapping):
            sections[name] = flat(value)
        elif isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
            for index, part in enumerate(value, start=1):
                sections[name if len(value) == 1 else f"{name} {index}"] = flat(part)
        else:
            sections["run"].append((name, _text(value)))
    return {name: rows for name, rows in sections.items() if rows}


def flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Nested values as rows of (dotted name, text)."""
    return list(_flat(values, ""))


def recipe_text(config: Mapping[str, Any]) -> str:
    """The recipe as YAML, ready to be saved and run again."""
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False) if value else "none"
    return "none" if value is None else str(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _optional_text(value: Any) -> str | None:
    return None if value is None else str(value)
