"""The table that `grao reward train` prints."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from grao.records.reward_model import RewardModelRecord
from grao.reports.words import NOT_MEASURED, interval, level, share


def reward_model_table(record: RewardModelRecord) -> Table:
    """Accuracy on held-out pairs beside what length alone would reach."""
    scores, correlation = record.scores, record.scores.length_correlation
    table = Table(
        title=f"{scores.accuracy.n:,} held-out pairs",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("Measure")
    for heading in ("Value", f"{level(record.config['confidence'])} interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("the better answer scores higher", share(scores.accuracy), interval(scores.accuracy))
    table.add_row("the better answer is the longer one", share(scores.longer), interval(scores.longer))
    related = NOT_MEASURED if correlation is None else f"{correlation:+.2f}"
    table.add_row("correlation of differences in score and length", related, "")
    table.add_row("mean difference in score", f"{scores.mean_margin:+.3f}", "")
    table.add_row("equal scores, counted as wrong", f"{scores.ties:,}", "")
    return table
