"""The headline numbers as rows, for the terminal (rich) and for a README (Markdown); the page uses the same rows."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from grao.records.evaluation import Estimate, Evaluation
from grao.reports.words import NOT_MEASURED, interval, level, share


@dataclass(frozen=True)
class Row:
    """One estimate: whose it is, its value and interval in percent, and the prompts behind it."""

    answers: str
    """`before`, `after`, or `after vs before`."""
    estimate: Estimate | None
    value: str
    interval: str
    prompts: str


@dataclass(frozen=True)
class Measure:
    """One measure with a row for each model or pair of models."""

    name: str
    meaning: str
    rows: list[Row]
    signed: bool = False
    """Whether it may be negative (a gain) or is a share."""


def measures(evaluation: Evaluation) -> list[Measure]:
    """The headline, in the order of reading; measures that no model has are left out."""
    models, gains = evaluation.models, evaluation.gains
    everything = [
        Measure(
            "RAS, strict wins",
            "answers that beat the reference",
            [_row(name, scores.ras) for name, scores in models.items()],
        ),
        Measure(
            "RAS, win or tie",
            "answers that beat the reference or draw level",
            [_row(name, scores.ras_win_or_tie) for name, scores in models.items()],
        ),
        Measure(
            "RAS, half ties",
            "wins and half of the ties",
            [_row(name, scores.ras_half_tie) for name, scores in models.items()],
        ),
        Measure(
            "NAG, net",
            "answers of one model against the other's, wins minus losses",
            [_row(f"{gain.model} vs {gain.baseline}", gain.nag, signed=True) for gain in gains],
            signed=True,
        ),
        Measure(
            "NAG, wins",
            "the same, wins only",
            [_row(f"{gain.model} vs {gain.baseline}", gain.nag_win) for gain in gains],
        ),
        Measure(
            "Relative RAS gain",
            "RAS of the one divided by RAS of the other, minus 1",
            [_row(f"{gain.model} vs {gain.baseline}", gain.relative_ras, signed=True) for gain in gains],
            signed=True,
        ),
    ]
    return [measure for measure in everything if measure.rows]


def headline_table(evaluation: Evaluation) -> Table:
    """The headline for the terminal; fits 80 columns. Printed to a file it is plain text."""
    table = Table(title=_title(evaluation), title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("Measure", "Answers"):
        table.add_column(heading, overflow="fold")
    for heading in ("Value", f"{level(evaluation.confidence)} interval", "Prompts"):
        table.add_column(heading, justify="right", no_wrap=True)
    for measure in measures(evaluation):
        for label, row in _labelled(measure):
            cells = (label, row.answers, row.value, row.interval, row.prompts)
            table.add_row(*(Text(cell) for cell in cells), end_section=row is measure.rows[-1])
    return table


def headline_markdown(evaluation: Evaluation) -> str:
    """The headline as a Markdown table, for a README."""
    heading = ("Measure", "Answers", "Value", f"{level(evaluation.confidence)} interval", "Prompts")
    lines = [heading, ("---", "---", "---:", "---:", "---:")]
    for measure in measures(evaluation):
        for label, row in _labelled(measure):
            lines.append((label, row.answers.replace("|", "\\|"), row.value, row.interval, row.prompts))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _row(answers: str, estimate: Estimate | None, signed: bool = False) -> Row:
    if estimate is None:
        return Row(answers, None, NOT_MEASURED, "", "")
    return Row(answers, estimate, share(estimate, signed), interval(estimate, signed), f"{estimate.n:,}")


def _labelled(measure: Measure) -> Iterator[tuple[str, Row]]:
    for index, row in enumerate(measure.rows):
        yield ("" if index else measure.name), row


def _title(evaluation: Evaluation) -> str:
    return escape(f"{evaluation.prompts:,} held-out prompts, answers against the reference")
