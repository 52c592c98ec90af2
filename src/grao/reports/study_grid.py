"""A plain table of text, and how an estimate over seeds is written in one."""

from dataclasses import dataclass

from grao.records.evaluation import Estimate
from grao.reports.words import interval


@dataclass(frozen=True)
class Grid:
    """Any table but the headline: names first, the rest numbers."""

    title: str
    headings: list[str]
    rows: list[list[str]]


def interval_over_seeds(estimate: Estimate | None, prompts: int, signed: bool) -> str:
    """Written as finely as an interval over so many prompts, on which the rounding depends."""
    if estimate is None:
        return "one seed"
    return interval(Estimate(estimate.value, estimate.low, estimate.high, prompts), signed)
