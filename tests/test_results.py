"""README and docs say what the records say, and a page that does not is found out.

Without p-values over prompts, whose random signs take half a minute; `make check` compares those too.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import results
from pages import cells, markdown, tables
from pages.sentences import quote

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grao.evaluation.inference.DRAWS", 2)
        patch.setattr(cells, "_SKIPPED", [True])
        cells.study.cache_clear()
        yield
        cells.study.cache_clear()


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return {page: (ROOT / page).read_text(encoding="utf-8") for page in results.pages()}


def test_every_table_and_quoted_number_is_what_the_records_say(texts: dict[str, str]) -> None:
    assert list(results.check(texts)) == []


@pytest.mark.parametrize(
    ("page", "old", "new", "fault"),
    [
        (
            "README.md",
            "| 17.0; 26.5 |",
            "| 17.1; 26.5 |",
            "README.md: table readme-methods, row 'right one time in ten; 100 steps', column 'GRAO': "
            "the page has '17.1; 26.5', the records say '17.0; 26.5'",
        ),
        (
            "docs/performance.md",
            "| 1,237 |",
            "| 1,337 |",
            "docs/performance.md: table memory-vs-trl, row '16,384', column 'MiB': "
            "the page has '1,337', the records say '1,237'",
        ),
        (
            "docs/results.md",
            "(38.8 against 34.2 %)",
            "(38.7 against\n34.2 %)",
            "docs/results.md: 'where `signed` leads (38.7 against 34.2 %)': the page has 38.7, the records say 38.8",
        ),
        ("docs/results.md", "<!-- table: kappa -->", "", "docs/results.md: the table `kappa (beta"),
        ("docs/results.md", "<!-- table: kappa -->", "<!-- table: kap -->", "docs/results.md: no table is called kap"),
        ("docs/data.md", "| your rows | set |", "| 3 rows | set |", None),
        (
            "docs/data.md",
            "| Anthropic HH, each dialogue as one text |",
            "| 31 % |",
            "docs/data.md: the table `your rows | set` holds digits and has no source (scripts/pages/tables.py)",
        ),
    ],
)
def test_what_differs_is_named(texts: dict[str, str], page: str, old: str, new: str, fault: str | None) -> None:
    assert old in texts[page]
    faults = list(results.check(texts | {page: texts[page].replace(old, new, 1)}))
    assert faults[:1] == [] if fault is None else faults[0].startswith(fault)


def test_a_page_is_rewritten_where_it_differs_and_nowhere_else(texts: dict[str, str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    kept = texts["docs/theory.md"]
    page.write_text(kept.replace("| 0.94 |", "| 0.49 |", 1), encoding="utf-8")
    results.write(page)
    assert page.read_text(encoding="utf-8") == kept


def test_tables_are_found_with_their_markers_and_not_in_code() -> None:
    table = "  <!-- table: x -->\n  | a | b |\n  | --- | --- |\n  | 1 | |\n  <!-- /table -->\n"
    page = f"- a\n\n{table}\n```\n| c |\n| --- |\n```\n"
    (found,) = markdown.tables(page)
    assert (found.name, found.cells) == ("x", [["a", "b"], ["1", ""]])
    assert markdown.unclosed(page) == []
    assert markdown.unclosed(page.replace("  <!-- /table -->\n", "")) == ["x"]
    other = markdown.replaced(page, "x", [["a", "b"], ["2", "\\|"]], right=True)
    assert other == page.replace("| --- | --- |", "| --- | ---: |").replace("| 1 | |", "| 2 | \\| |")


def test_a_sentence_that_is_gone_is_named() -> None:
    (fault,) = quote("README.md", "wins {} times", lambda: "3").faults("It wins three times.")
    assert fault == "README.md: no sentence contains 'wins {} times' (scripts/pages/quotes.py)"


def test_recorded_figures_say_where_they_are_from() -> None:
    for name, record in tables.RECORDS.items():
        assert {"page", "command", "date", "machine", "from"} <= record.keys(), name
        assert "rows" in record or "figures" in record, name
