"""The recipe's fields as a table for `--help`."""

from collections.abc import Iterator
from itertools import zip_longest
from textwrap import wrap

from grao.config.fields import FieldFacts, sections
from grao.config.recipe import Recipe
from grao.config.strict_yaml import Location, write_inline

_KEY, _KIND, _DEFAULT = 19, 22, 14
"""Widths of the first three columns; the last takes the rest."""


def format_fields(root: type = Recipe, width: int = 100) -> str:
    """Every field by section: key, what it takes, default, meaning. A section that comes again refers to the first."""
    lines = [*_row("key", "takes", "default", "meaning", width)]
    first: dict[tuple[str, ...], Location] = {}
    repeated: list[Location] = []
    for section in sections(root):
        if any(section.path[: len(path)] == path for path in repeated):
            continue
        shown = first.setdefault((section.doc, *(item.path[-1] for item in section.fields)), section.path)
        again = shown != section.path
        optional = " Optional; null by default." if section.optional else ""
        as_above = f" Its fields are those of {'.'.join(shown)}." if again else ""
        lines.append("")
        kind = f" ({section.variant})" if section.variant else ""
        lines += wrap(f"{'.'.join(section.path) or 'top level'}{kind}: {section.doc}{optional}{as_above}", width)
        if again:
            repeated.append(section.path)
            continue
        for item in section.fields:
            lines += _row(item.path[-1], item.kind, _default(item), item.doc, width)
    return "\n".join(lines)


def _default(item: FieldFacts) -> str:
    return "required" if item.required else write_inline(item.default)


def _row(key: str, kind: str, default: str, doc: str, width: int) -> Iterator[str]:
    rest = width - 2 - _KEY - _KIND - _DEFAULT
    widths = (kind, _KIND - 2), (default, _DEFAULT - 2), (doc, rest)
    cells = [wrap(text, columns, break_on_hyphens=False) for text, columns in widths]
    for number, (left, middle, right) in enumerate(zip_longest(*cells, fillvalue="")):
        name = "" if number else key
        yield f"  {name:{_KEY}}{left:{_KIND}}{middle:{_DEFAULT}}{right}".rstrip()
