"""`grao compare`, `grao ablate`, `grao sweep`: a study, whatever its arms."""

from grao.cli.arguments import StudyArguments
from grao.cli.quiet import quiet_libraries
from grao.cli.screen import open_console
from grao.cli.study import StudyTerminal, show_study
from grao.studies.compare import quick, run_study


def run(arguments: StudyArguments) -> int:
    """Runs what is missing of the study and shows the result."""
    console = open_console()
    study = quick(arguments.study) if arguments.quick else arguments.study
    try:
        with quiet_libraries():
            result = run_study(study, StudyTerminal(console), arguments.retry)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; finished runs are kept, the same command goes on from there") from None
    show_study(result, study.output / "study.html", console)
    return 0
