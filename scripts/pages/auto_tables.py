"""The test of `method: auto` (`benchmarks/auto_test.py`), from the records in `studies/auto-test`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import auto_test
import numpy as np
from pages.cells import points, share
from pages.grid import Lines

from grao.evaluation.metrics import wins
from grao.records.study import CellRecord, read_cells

RESULTS = "docs/results.md"
ARMS = {
    "sft": "SFT",
    "grpo": "GRPO",
    "grao": "GRAO",
    "sft-grpo": "SFT, GRPO",
    "sft-grao-light": "SFT, GRAO light",
}


@dataclass(frozen=True)
class CellTable:
    """A table with one row per cell of the test."""

    page: str
    heading: list[str]
    row: Callable[[auto_test.CellResult], list[str]]

    def lines(self) -> Lines:
        """All cells as text, the heading first."""
        return [self.heading, *([each.cell, *self.row(each)] for each in verdict().cells)]


@cache
def verdict() -> auto_test.Verdict:
    """The result of the test, computed once."""
    result = auto_test.verdict()
    if result is None:
        raise FileNotFoundError(f"{auto_test.FOLDER} holds no complete cell")
    return result


def mean_difference() -> tuple[Callable[[], str], Callable[[], str], Callable[[], str]]:
    """The first end point: mean difference over cells, and both ends of its interval, in points."""
    return (
        lambda: points(verdict().mean),
        lambda: points(verdict().low),
        lambda: points(verdict().high),
    )


def _compared(each: auto_test.CellResult) -> list[str]:
    difference = f"{points(each.auto - each.fixed)} ({points(each.low)} to {points(each.high)})"
    return [ARMS[each.rival], share(each.auto), share(each.fixed), difference]


def _fixed_arms(each: auto_test.CellResult) -> list[str]:
    records = [*read_cells(auto_test.FOLDER / each.cell).values()]
    cells = [(_rate(records, arm), _rate(records, arm, ties=True)) for arm in ARMS]
    best = max(ras for ras, _ in cells)
    return [f"{f'**{share(ras)}**' if ras == best else share(ras)}; {share(tied)}" for ras, tied in cells]


def _rate(records: list[CellRecord], arm: str, ties: bool = False) -> float:
    """Mean RAS of an arm over the seeds that choose the comparator; with `ties` the share of wins and ties."""
    chosen = [each for each in records if each.key.arm == arm and each.key.seed in auto_test.CHOOSING]
    outcomes = [each.outcomes.after for each in chosen if each.outcomes]
    return float(np.nanmean([wins(after.replace("t", "w") if ties else after) for after in outcomes]))


TABLES = {
    "auto-test": CellTable(
        RESULTS,
        ["cell", "best fixed arm", "`auto`", "that arm", "`auto` minus that arm"],
        _compared,
    ),
    "auto-arms": CellTable(RESULTS, ["cell", *ARMS.values()], _fixed_arms),
}
