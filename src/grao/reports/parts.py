"""Building blocks of the pages of runs, studies and audits, and the rendering of their templates.

All text is escaped. A page embeds its style sheet and scripts. Its content security policy allows nothing else: no
network access, no inline handlers, and no scripts but these, identified by their hashes. A page has no date of its own,
so that equal values give byte-identical pages. Charts and the list of answers need JavaScript; text and tables do not.
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

from grao.records.run import RewardVerdict
from grao.reports.tables import Table, level, percent, signed, typeset
from grao.visible import visible

LONGEST = 900
"""Most characters of one text; longer texts lose their middle."""


class Excerpt(NamedTuple):
    """A text, or its beginning and end with the number of characters omitted between them."""

    head: str
    omitted: int = 0
    tail: str = ""


class Badge(NamedTuple):
    """A verdict in a word or two."""

    outcome: str
    """`win`, `tie`, `loss` or `missing`; determines the colour."""
    words: str


class Column(NamedTuple):
    """One of several answers shown next to each other."""

    heading: str
    text: str
    badges: Sequence[Badge] = ()
    footer: str = ""
    said: Sequence[RewardVerdict] = ()
    """The verdict of each reward."""


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
    """Render a page.

    Args:
        template: file name of a template in this package.
        **values: variables of the template.

    Returns:
        The page as HTML.
    """
    script, style = (Markup(f"\n{''.join(map(_file, names))}") for names in (_SCRIPTS, ("style.css",)))
    policy = f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src blob:"
    policy += "; base-uri 'none'; form-action 'none'"
    frame = {"policy": policy, "style": style, "script": script}
    return _environment().get_template(template).render(frame=frame, **values)


def embed(value: Any) -> Markup:
    """Encode plain values as JSON for a script element, escaped so that no text can end the element."""
    text = json.dumps(_shown(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def exports(table: Table) -> dict[str, str]:
    """Return the table in the formats offered for download: file ending -> text."""
    whole = table.labelled() if any(block.title for block in table.blocks) else table
    return {"csv": whole.csv(), "tex": whole.latex(), "md": whole.markdown()}


@cache
def _file(name: str) -> str:
    return files("grao.reports").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _shown(value: Any) -> Any:
    """Apply `_printable` to every text in a tree of values."""
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
    """Shorten a text of more than `LONGEST` characters; two thirds of them are its beginning, one third its end."""
    if len(text) <= LONGEST:
        return Excerpt(text)
    tail = LONGEST // 3
    return Excerpt(text[: LONGEST - tail], len(text) - LONGEST, text[-tail:])


def _printable(value: Any) -> Any:
    """Make visible what HTML forbids or what changes the text direction (`visible`); return other values unchanged."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return visible(value.replace("\r\n", "\n"))
