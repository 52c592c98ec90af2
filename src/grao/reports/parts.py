"""The parts that the pages of runs, studies and audits are made of, and the templates that put them together.

All text is escaped. No script, no outside file, no date of its own: equal values give equal pages, byte for byte.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from grao.config.arms import dotted
from grao.records.run import Manifest
from grao.reports.tables import bar, level, percent, typeset
from grao.visible import visible

LONGEST = 900
"""Characters of one text; longer ones lose their middle."""


class Excerpt(NamedTuple):
    """A text, or its beginning and its end with the number of characters left out between them."""

    head: str
    omitted: int = 0
    tail: str = ""


class Badge(NamedTuple):
    """A verdict in a word or two."""

    outcome: str
    """`win`, `tie`, `loss` or `missing`, which decides the colour."""
    words: str


class Column(NamedTuple):
    """One answer beside the others."""

    heading: str
    text: str
    badges: Sequence[Badge] = ()
    footer: str = ""


class Example(NamedTuple):
    """One prompt with its answers."""

    id: str
    prompt: str
    columns: Sequence[Column]


class ExampleGroup(NamedTuple):
    """Examples of one kind."""

    title: str
    examples: Sequence[Example]
    badge: Badge | None = None
    note: str = ""


def render_page(template: str, **values: Any) -> str:
    """A template of this package as HTML."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("grao", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters.update(typeset=typeset, level=level, percent=percent, shorten=shorten, bar=bar)
    return environment


def shorten(text: str) -> Excerpt:
    """A text of more than `LONGEST` characters keeps the first two thirds of them and the last third."""
    if len(text) <= LONGEST:
        return Excerpt(text)
    tail = LONGEST // 3
    return Excerpt(text[: LONGEST - tail], len(text) - LONGEST, text[-tail:])


def origin(manifest: Manifest) -> dict[str, Any]:
    """What the templates say about where a page comes from: `model`, `settings`, `facts`, `command`, `recipe`."""
    recorded = manifest.model_dump(mode="json", exclude_unset=True, exclude={"config"})
    data, versions = recorded.pop("data", {}), recorded.pop("versions", {})
    command = manifest.command or ["grao", "train", "recipe.yaml"]
    path = str(manifest.setting("model", "path") or "")
    return {
        "model": Path(path).name if path.startswith((".", "/", "~")) else path,
        "settings": settings(manifest.config),
        "facts": {"Data": flat(data), "Run": flat(recorded), "Versions": flat(versions)},
        "command": shlex.join(command) if isinstance(command, list) else command,
        "recipe": yaml.safe_dump(manifest.config, sort_keys=False, allow_unicode=True) if manifest.config else "",
    }


def settings(config: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """The recipe by section: name -> (setting, value); what stands outside a section comes first, as `run`."""
    sections: dict[str, list[tuple[str, str]]] = {"run": []}
    for name, value in config.items():
        parts = value if isinstance(value, list) else [value]
        if all(isinstance(part, Mapping) for part in parts):
            for index, part in enumerate(parts, start=1):
                sections[name if len(parts) == 1 else f"{name} {index}"] = flat(part)
        else:
            sections["run"].append((name, _text(value)))
    return {name: rows for name, rows in sections.items() if rows}


def flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Nested values as rows of (dotted name, text)."""
    return [(name, _text(value)) for name, value in dotted(values)]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False) if value else "none"
    return "none" if value is None else str(value)


def _printable(value: Any) -> Any:
    """Text without characters that HTML forbids, or that would turn the order of what is around them."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return visible(value.replace("\r\n", "\n"))
