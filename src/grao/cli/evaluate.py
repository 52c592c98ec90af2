"""`grao evaluate`: held-out prompts answered and judged, for a finished run or for any model."""

from grao.cli.arguments import EvaluateArguments
from grao.cli.quiet import quiet_libraries
from grao.cli.screen import TerminalScreen, open_console
from grao.reports.tables import headline_table
from grao.studies.evaluate import evaluate_recipe, evaluate_run


def run(arguments: EvaluateArguments) -> int:
    """Evaluates, records, reports."""
    console = open_console()
    screen = TerminalScreen(console)
    with quiet_libraries():
        if arguments.run:
            folder = arguments.output or arguments.run
            evaluation = evaluate_run(arguments.run, folder, screen)
        elif arguments.recipe:
            folder = arguments.recipe.output
            evaluation = evaluate_recipe(arguments.recipe, screen)
    console.print(headline_table(evaluation))
    console.print(f"report  {folder / 'report.html'}", highlight=False, soft_wrap=True)
    return 0
