"""`grao train`: a recipe into a run folder."""

from rich.console import Console

from grao.cli.arguments import TrainArguments
from grao.cli.quiet import quiet_libraries
from grao.cli.screen import TerminalScreen, open_console
from grao.reports.tables import headline_table
from grao.studies.run import Finished, resume_run, start_run


def run(arguments: TrainArguments) -> int:
    """Trains, evaluates and reports."""
    console = open_console()
    screen = TerminalScreen(console)
    with quiet_libraries():
        if arguments.resume:
            finished = resume_run(arguments.resume, screen)
        elif arguments.recipe:
            finished = start_run(arguments.recipe, screen)
    show(finished, console)
    return 0


def show(finished: Finished, console: Console) -> None:
    """The headline table and where everything lies."""
    if finished.evaluation:
        console.print(headline_table(finished.evaluation))
    console.print(f"model   {finished.folder / 'model'}", highlight=False, soft_wrap=True)
    console.print(f"report  {finished.report}", highlight=False, soft_wrap=True)
