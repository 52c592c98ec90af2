"""`grao report`: the page of a run, made anew from its records."""

from rich.console import Console

from grao.cli.arguments import ReportArguments
from grao.records.evaluation import read_evaluation
from grao.reports.page import write_report
from grao.reports.tables import headline_table


def run(arguments: ReportArguments) -> int:
    """Writes `report.html` and prints the headline table."""
    console = Console()
    page = write_report(arguments.run)
    if evaluation := read_evaluation(arguments.run):
        console.print(headline_table(evaluation))
    console.print(f"report  {page}", highlight=False, soft_wrap=True)
    return 0
