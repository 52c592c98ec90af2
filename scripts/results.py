"""Write every table of measurements in README and docs from its records, or report where a page differs from them.

    python scripts/results.py            write the tables and check the numbers quoted in sentences
    python scripts/results.py --check    write nothing; exit with 1 if a table or a quoted number differs
    python scripts/results.py --check --quick    the same, but any p-value over prompts passes: their sign-flip
                                         tests take most of the time

`pages/tables.py` lists the tables, `pages/quotes.py` the quoted numbers. Sentences are not rewritten, because the words
around a changed number may have to change too.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from pages.cells import ANY_P, ROOT, skip_p_prompts
from pages.markdown import Table, replaced, tables, unclosed
from pages.quotes import QUOTES
from pages.tables import PLAIN, RECORDED, TABLES

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
NOTEBOOK = "docs/LOG.md"
_P_VALUE = r"(< 0\.001|[01]\.\d+)"


def main(arguments: list[str]) -> int:
    """Write or check; return 1 if something differs or a table has no source."""
    parser = argparse.ArgumentParser(description="Tables of README and docs, from records.")
    parser.add_argument("--check", action="store_true", help="write nothing, report what differs")
    parser.add_argument("--quick", action="store_true", help="with --check: without p-values over prompts")
    options = parser.parse_args(arguments)
    if options.quick and not options.check:
        parser.error("--quick needs --check")
    if options.quick:
        skip_p_prompts()
    if not options.check:
        for page in pages():
            write(ROOT / page)
    faults = list(check({page: (ROOT / page).read_text(encoding="utf-8") for page in pages()}))
    print(
        "\n".join(faults) or f"{len(TABLES) + len(RECORDED)} tables and {len(QUOTES)} sentences agree with the records"
    )
    return int(bool(faults))


def pages() -> list[str]:
    """All pages except the notebook."""
    return [page for page in PAGES if page != NOTEBOOK]


def write(path: Path) -> None:
    """Rewrite the cells of every marked table of a page."""
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
    """Yield a line for each fault of the pages, given as page -> text."""
    page_of: dict[str, str] = {}
    plain_seen = set()
    for page, text in texts.items():
        for name in unclosed(text):
            yield f"{page}: table {name}: no `<!-- /table -->` right after it"
        for table in tables(text):
            if table.name:
                page_of[table.name] = page
                yield from _difference(page, table)
            elif (page, table.heading) in PLAIN:
                plain_seen.add((page, table.heading))
            elif re.search(r"\d", " ".join(table.lines[2:])):
                yield f"{page}: the table `{table.heading}` holds digits and has no source (scripts/pages/tables.py)"
    expected = {name: grid.page for name, grid in TABLES.items()}
    expected |= {name: record["page"] for name, record in RECORDED.items()}
    for name, page in expected.items():
        if page_of.get(name) != page:
            yield f"{page}: table {name} is missing"
    for page, heading in sorted(PLAIN - plain_seen):
        yield f"{page}: the plain table `{heading}` is missing"
    for quote in QUOTES:
        yield from quote.faults(texts[quote.page])


def _difference(page: str, table: Table) -> Iterator[str]:
    """Yield a line for the first cell in which a marked table differs from its records."""
    if table.name in TABLES:
        expected = TABLES[table.name].lines()
    elif table.name in RECORDED:
        expected = cells(RECORDED[table.name])
    else:
        yield f"{page}: no table is called {table.name} (scripts/pages/tables.py)"
        return
    for row, expected_row in zip_longest(table.cells, expected, fillvalue=[]):
        for column, (shown, correct) in enumerate(zip_longest(row, expected_row, fillvalue="")):
            if not matches(shown, correct):
                cell = f"row {(expected_row or row)[0] or '1'!r}, column {(expected[0] + table.cells[0])[column]!r}"
                yield f"{page}: table {table.name}, {cell}: the page has {shown!r}, the records say {correct!r}"
                return


def matches(shown: str, correct: str) -> bool:
    """Whether a cell has the correct text; any p-value matches `ANY_P`."""
    return re.fullmatch(re.escape(correct).replace(re.escape(ANY_P), _P_VALUE), shown) is not None


def cells(record: dict) -> list[list[str]]:
    """Heading and rows of a recorded table."""
    return [record["columns"], *record["rows"]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
