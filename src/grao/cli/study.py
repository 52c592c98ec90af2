"""What a study looks like in the terminal while it runs, and what came of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from grao.cli.screen import Bar, TerminalScreen
from grao.records.study import StudyResult
from grao.reports.study_tables import study_tables
from grao.reports.study_words import notes, verdict
from grao.reports.sweep import sweep_headline, sweep_sentences
from grao.reports.words import duration
from grao.studies.screen import Advance


class StudyTerminal(TerminalScreen):
    """Satisfies `grao.studies.screen.StudyScreen`."""

    @contextmanager
    def cell(self, title: str, left: float | None) -> Iterator[Advance]:
        """A bar for one run, with the time to the end of the study behind it."""
        words = f"study: about {duration(left)} left" if left is not None and self.console.is_terminal else ""
        with Bar(self.console, title) as bar:
            yield lambda done, total: bar.advance(done, total, words)


def show_study(result: StudyResult, page: Path, console: Console) -> None:
    """The tables, the verdict in words, what went wrong, and where the page lies."""
    for table in study_tables(result):
        console.print(table)
        console.print()
    swept = result.sweep
    said = (sweep_headline(result, swept), *sweep_sentences(result, swept)) if swept else (verdict(result),)
    for line in (*said, *notes(result)):
        console.print(line, highlight=False, markup=False)
    console.print(f"report  {page}", highlight=False, soft_wrap=True)
