"""The parts that the pages of runs, studies and audits are made of, and the templates that put them together.

All text is escaped. A page holds its style sheet and scripts itself, and its policy lets nothing else run or load: no
network, no handler in an attribute, no script but these, by their hashes. It has no date of its own: equal values give
equal pages, byte for byte. Without JavaScript all words and tables stand; charts and the list of answers need it.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from grao.records.run import Said
from grao.reports.tables import Table, level, percent, signed, typeset
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
    said: Sequence[Said] = ()
    """What each reward said of it."""


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


_SCRIPTS = ("page.js", "charts.js", "words.js", "browser.js")


def render_page(template: str, **values: Any) -> str:
    """A template of this package as HTML."""
    script, style = (Markup(f"\n{''.join(map(_file, names))}") for names in (_SCRIPTS, ("style.css",)))
    policy = f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src blob:"
    policy += "; base-uri 'none'; form-action 'none'"
    frame = {"policy": policy, "style": style, "script": script}
    return _environment().get_template(template).render(frame=frame, **values)


def embed(value: Any) -> Markup:
    """Plain values as JSON for a script of type application/json: no text in it can end the element."""
    text = json.dumps(_shown(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def exports(table: Table) -> dict[str, str]:
    """The table in the forms that can be taken from a page: ending of the file -> text."""
    whole = table.labelled() if any(block.title for block in table.blocks) else table
    return {"csv": whole.csv(), "tex": whole.latex(), "md": whole.markdown()}


@cache
def _file(name: str) -> str:
    return files("grao.reports").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _shown(value: Any) -> Any:
    """`visible` on every text of a tree."""
    if isinstance(value, Mapping):
        return {_printable(name): _shown(inside) for name, inside in value.items()}
    return list(map(_shown, value)) if isinstance(value, list | tuple) else _printable(value)


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
    environment.filters.update(
        typeset=typeset,
        level=level,
        percent=percent,
        signed=signed,
        shorten=shorten,
        embed=embed,
        exports=exports,
    )
    return environment


def shorten(text: str) -> Excerpt:
    """A text of more than `LONGEST` characters keeps the first two thirds of them and the last third."""
    if len(text) <= LONGEST:
        return Excerpt(text)
    tail = LONGEST // 3
    return Excerpt(text[: LONGEST - tail], len(text) - LONGEST, text[-tail:])


def _printable(value: Any) -> Any:
    """Text without characters that HTML forbids, or that would turn the order of what is around them."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return visible(value.replace("\r\n", "\n"))
