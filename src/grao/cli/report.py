"""`grao report`: the page of a run or a study, made anew from its records."""

from rich.console import Console

from grao.cli.arguments import ReportArguments
from grao.cli.study import show_study
from grao.records.evaluation import read_evaluation
from grao.records.study import read_study
from grao.reports.page import write_report
from grao.reports.study_page import write_study_report
from grao.reports.tables import headline_table


def run(arguments: ReportArguments) -> int:
    """Writes `report.html` and prints the headline table; of a study `study.html` and its tables."""
    console = Console()
    if study := read_study(arguments.run):
        recipe = (arguments.run / "study.yaml").read_text(encoding="utf-8")
        show_study(study, write_study_report(arguments.run, study, recipe), console)
        return 0
    page = write_report(arguments.run)
    if evaluation := read_evaluation(arguments.run):
        console.print(headline_table(evaluation))
    console.print(f"report  {page}", highlight=False, soft_wrap=True)
    return 0
