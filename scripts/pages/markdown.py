"""Tables in Markdown pages, and the markers around those that `results.py` writes.

    <!-- table: NAME -->
    | ... |
    <!-- /table -->

Rendered pages do not show the markers. A marked table may be indented, for example in a list.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_OPENING, _CLOSING = re.compile(r"^\s*<!-- table: (\S+) -->$"), re.compile(r"^\s*<!-- /table -->$")
_ROW, _RULE, _FENCE = re.compile(r"^\s*\|.*\|\s*$"), re.compile(r"^[\s|:-]+$"), re.compile(r"^\s*(```|~~~)")
_BORDER = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Table:
    """One table of a page."""

    name: str
    """From its marker; empty if it has none."""
    first: int
    """Index of its first line on the page."""
    lines: Sequence[str]

    @property
    def cells(self) -> list[list[str]]:
        """Its rows, without the rule under the heading."""
        return [_cells(line) for number, line in enumerate(self.lines) if number != 1]

    @property
    def heading(self) -> str:
        """The cells of its first line, joined by `|`."""
        return " | ".join(_cells(self.lines[0])) if self.lines else ""


def tables(page: str) -> list[Table]:
    """All tables of a page outside code blocks."""
    lines, result, fenced, number = page.splitlines(), [], False, 0
    while number < len(lines):
        opening = _OPENING.match(lines[number])
        fenced ^= bool(_FENCE.match(lines[number]))
        first = number + bool(opening)
        last = first
        while last < len(lines) and _ROW.match(lines[last]):
            last += 1
        is_table = last - first > 1 and _RULE.match(lines[first + 1])
        if not fenced and (opening or is_table):
            result.append(Table(opening[1] if opening else "", first, lines[first:last]))
        number = max(last, number + 1)
    return result


def unclosed(page: str) -> list[str]:
    """Names of marked tables without a closing marker right after them."""
    lines = [*page.splitlines(), ""]
    return [
        table.name for table in tables(page) if table.name and not _CLOSING.match(lines[table.first + len(table.lines)])
    ]


def replaced(page: str, name: str, cells: Sequence[Sequence[str]], right: bool = False) -> str:
    """The page with the cells of one marked table replaced."""
    table = next(table for table in tables(page) if table.name == name)
    lines = page.splitlines()
    indent = re.match(r"\s*", lines[table.first - 1])[0]
    lines[table.first : table.first + len(table.lines)] = [indent + line for line in to_markdown(cells, right)]
    return "\n".join(lines) + "\n"


def to_markdown(cells: Sequence[Sequence[str]], right: bool = False) -> list[str]:
    """The lines of a table; `right` aligns all columns but the first to the right."""
    rule = ["---", *["---:" if right else "---"] * (len(cells[0]) - 1)]
    return [_line(row) for row in (cells[0], rule, *cells[1:])]


def _line(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in _BORDER.split(line.strip())[1:-1]]
