"""Writes every table of measurements in README and docs from the records they rest on, or says where a page differs.

    python scripts/results.py            writes the tables; what a sentence quotes from them is only checked
    python scripts/results.py --check    writes nothing; 1 if a table or a quoted number differs from the records
    python scripts/results.py --check --quick    the same without p-values over prompts, whose random signs take most
                                         of the time: where one stands, any p-value passes

`pages/tables.py` lists the tables, `pages/quotes.py` what sentences quote. Sentences are not rewritten: where a number
changes, the words around it may have to change too.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from pages.cells import DRAWN, ROOT, skip_drawn
from pages.markdown import Table, replaced, tables, unclosed
from pages.quotes import QUOTES
from pages.tables import PLAIN, RECORDED, TABLES

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
NOTEBOOK = "docs/LOG.md"
_P_VALUE = r"(< 0\.001|[01]\.\d+)"


def main(arguments: list[str]) -> int:
    """Writes or checks; 1 if something differs or a table has no source."""
    parser = argparse.ArgumentParser(description="Tables of README and docs, from records.")
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs")
    parser.add_argument("--quick", action="store_true", help="with --check: without p-values over prompts")
    options = parser.parse_args(arguments)
    if options.quick and not options.check:
        parser.error("--quick goes with --check")
    if options.quick:
        skip_drawn()
    if not options.check:
        for page in pages():
            write(ROOT / page)
    faults = list(check({page: (ROOT / page).read_text(encoding="utf-8") for page in pages()}))
    print(
        "\n".join(faults)
        or f"{len(TABLES) + len(RECORDED)} tables and {len(QUOTES)} sentences are what the records say"
    )
    return int(bool(faults))


def pages() -> list[str]:
    """All pages but the notebook."""
    return [page for page in PAGES if page != NOTEBOOK]


def write(path: Path) -> None:
    """Sets the cells of every marked table of a page."""
    text = before = path.read_text(encoding="utf-8")
    for table in tables(text):
        if table.name in TABLES:
            text = replaced(text, table.name, TABLES[table.name].lines())
        elif table.name in RECORDED:
            record = RECORDED[table.name]
            text = replaced(text, table.name, cells(record), right=record.get("align") == "right")
    if text != before:
        path.write_text(text, encoding="utf-8")


def check(texts: dict[str, str]) -> Iterator[str]:
    """What is wrong with the pages, a line each; page -> its text."""
    where: dict[str, str] = {}
    plain = set()
    for page, text in texts.items():
        for name in unclosed(text):
            yield f"{page}: table {name}: no `<!-- /table -->` right behind it"
        for table in tables(text):
            if table.name:
                where[table.name] = page
                yield from _compared(page, table)
            elif (page, table.heading) in PLAIN:
                plain.add((page, table.heading))
            elif re.search(r"\d", " ".join(table.lines[2:])):
                yield f"{page}: the table `{table.heading}` holds digits and has no source (scripts/pages/tables.py)"
    homes = {name: grid.page for name, grid in TABLES.items()} | {
        name: record["page"] for name, record in RECORDED.items()
    }
    for name, page in homes.items():
        if where.get(name) != page:
            yield f"{page}: table {name} is not there"
    for page, heading in sorted(PLAIN - plain):
        yield f"{page}: the plain table `{heading}` is not there"
    for quote in QUOTES:
        yield from quote.faults(texts[quote.page])


def _compared(page: str, table: Table) -> Iterator[str]:
    """The first cell in which a marked table differs from its records."""
    if table.name in TABLES:
        wanted = TABLES[table.name].lines()
    elif table.name in RECORDED:
        wanted = cells(RECORDED[table.name])
    else:
        yield f"{page}: no table is called {table.name} (scripts/pages/tables.py)"
        return
    for row, expected in zip_longest(table.cells, wanted, fillvalue=[]):
        for column, (shown, meant) in enumerate(zip_longest(row, expected, fillvalue="")):
            if not matches(shown, meant):
                at = f"row {(expected or row)[0] or '1'!r}, column {(wanted[0] + table.cells[0])[column]!r}"
                yield f"{page}: table {table.name}, {at}: the page has {shown!r}, the records say {meant!r}"
                return


def matches(shown: str, meant: str) -> bool:
    """Whether a text is what it should be; where p-values are not computed, any passes."""
    return re.fullmatch(re.escape(meant).replace(re.escape(DRAWN), _P_VALUE), shown) is not None


def cells(record: dict) -> list[list[str]]:
    """Heading and rows."""
    return [record["columns"], *record["rows"]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
