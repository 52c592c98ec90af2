"""`grao compare`: several methods or settings on the same model, prompts and rewards, over several seeds."""

from collections.abc import Iterator
from contextlib import contextmanager

from grao.cli.arguments import CompareArguments
from grao.cli.quiet import quiet_libraries
from grao.cli.screen import Bar, TerminalScreen, open_console
from grao.reports.study_tables import study_tables
from grao.reports.study_words import verdict
from grao.reports.words import duration
from grao.studies.compare import quick, run_study
from grao.studies.screen import Advance


def run(arguments: CompareArguments) -> int:
    """Runs what is missing of the study and shows the result."""
    console = open_console()
    study = quick(arguments.study) if arguments.quick else arguments.study
    try:
        with quiet_libraries():
            result = run_study(study, StudyTerminal(console), arguments.retry)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; finished runs are kept, the same command goes on from there") from None
    for table in study_tables(result):
        console.print(table)
        console.print()
    console.print(verdict(result), highlight=False, markup=False)
    console.print(f"report  {study.output / 'study.html'}", highlight=False, soft_wrap=True)
    return 0


class StudyTerminal(TerminalScreen):
    """Satisfies `grao.studies.screen.StudyScreen`."""

    @contextmanager
    def cell(self, title: str, left: float | None) -> Iterator[Advance]:
        """A bar for one run, with the time to the end of the study behind it."""
        words = f"study: about {duration(left)} left" if left is not None and self.console.is_terminal else ""
        with Bar(self.console, title) as bar:
            yield lambda done, total: bar.advance(done, total, words)
