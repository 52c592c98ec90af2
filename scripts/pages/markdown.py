"""Tables in Markdown pages, and the markers around those that are written by `results.py`.

    <!-- table: NAME -->
    | ... |
    <!-- /table -->

Markers do not show where the page is read. A marked table may be indented, as inside a list.
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
    """From its marker; empty without one."""
    first: int
    """Index of its first line in the page."""
    lines: Sequence[str]

    @property
    def cells(self) -> list[list[str]]:
        """Without the rule under the heading."""
        return [_cells(line) for number, line in enumerate(self.lines) if number != 1]

    @property
    def heading(self) -> str:
        """Its first line's cells, with `|` between."""
        return " | ".join(_cells(self.lines[0])) if self.lines else ""


def tables(page: str) -> list[Table]:
    """All tables of a page, outside of code."""
    lines, found, fenced, number = page.splitlines(), [], False, 0
    while number < len(lines):
        opening = _OPENING.match(lines[number])
        fenced ^= bool(_FENCE.match(lines[number]))
        first = number + bool(opening)
        last = first
        while last < len(lines) and _ROW.match(lines[last]):
            last += 1
        is_table = last - first > 1 and _RULE.match(lines[first + 1])
        if not fenced and (opening or is_table):
            found.append(Table(opening[1] if opening else "", first, lines[first:last]))
        number = max(last, number + 1)
    return found


def unclosed(page: str) -> list[str]:
    """Names of marked tables without their closing marker right behind them."""
    lines = [*page.splitlines(), ""]
    return [
        table.name for table in tables(page) if table.name and not _CLOSING.match(lines[table.first + len(table.lines)])
    ]


def replaced(page: str, name: str, cells: Sequence[Sequence[str]], right: bool = False) -> str:
    """The page with other cells in one marked table."""
    table = next(each for each in tables(page) if each.name == name)
    lines = page.splitlines()
    indent = re.match(r"\s*", lines[table.first - 1])[0]
    lines[table.first : table.first + len(table.lines)] = [indent + line for line in written(cells, right)]
    return "\n".join(lines) + "\n"


def written(cells: Sequence[Sequence[str]], right: bool = False) -> list[str]:
    """The lines of a table; with numbers to the right, all but the first column."""
    rule = ["---", *["---:" if right else "---"] * (len(cells[0]) - 1)]
    return [_line(row) for row in (cells[0], rule, *cells[1:])]


def _line(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in _BORDER.split(line.strip())[1:-1]]
