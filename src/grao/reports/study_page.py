"""A study as one self-contained page and a CSV file, made from its result and nothing else."""

from pathlib import Path

from grao.records.files import replace_text
from grao.records.study import StudyResult
from grao.reports.blocks import bar
from grao.reports.study_figures import study_figures
from grao.reports.study_tables import BEFORE, grids, study_csv, study_measures
from grao.reports.study_words import headline, notes, on_prompts, on_seeds, spread
from grao.reports.sweep import sweep_figures, sweep_headline, sweep_sentences
from grao.reports.template import render_template


def write_study_report(folder: Path, result: StudyResult, recipe: str) -> Path:
    """Writes `study.html` and `study.csv` into the folder of a study.

    Args:
        folder: of the study.
        result: its numbers.
        recipe: the study as YAML.
    """
    path = folder / "study.html"
    replace_text(path, render_study(folder.resolve().name, result, recipe))
    replace_text(folder / "study.csv", study_csv(result))
    return path


def render_study(name: str, result: StudyResult, recipe: str) -> str:
    """The page as HTML; all text is escaped."""
    swept = result.sweep
    said = sweep_sentences(result, swept) if swept else [on_prompts(result), on_seeds(result)]
    return render_template(
        "study.html.j2",
        name=name,
        result=result,
        headline=sweep_headline(result, swept) if swept else headline(result),
        sentences=[sentence for sentence in said if sentence],
        notes=notes(result),
        spread=spread(result),
        measures=[] if swept else study_measures(result),
        before=BEFORE,
        bar=bar,
        grids=grids(result),
        figures=sweep_figures(result, swept) if swept else study_figures(result),
        recipe=recipe,
    )
