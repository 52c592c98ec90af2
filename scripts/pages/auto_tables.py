"""Tables on the test of `method: auto` (`benchmarks/auto_test.py`), from the records in `studies/auto-test`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import auto_test
import numpy as np
from pages.cells import points, share
from pages.grid import Lines

from grao.evaluation.metrics import wins
from grao.records.study import CellRecord, read_cells

RESULTS = "docs/results.md"
FIXED = {
    "sft": "SFT",
    "grpo": "GRPO",
    "grao": "GRAO",
    "sft-grpo": "SFT, GRPO",
    "sft-grao-light": "SFT, GRAO light",
}
ARMS = {**FIXED, "auto": "`auto`"}


@dataclass(frozen=True)
class CellTable:
    """A table that is not of a single study."""

    page: str
    lines: Callable[[], Lines]
    """All cells as text, the heading first."""


@cache
def verdict() -> auto_test.Verdict:
    """Return the result of the test.

    Raises:
        FileNotFoundError: if no cell is complete.
    """
    result = auto_test.verdict()
    if result is None:
        raise FileNotFoundError(f"{auto_test.FOLDER} holds no complete cell")
    return result


def mean_difference() -> tuple[Callable[[], str], Callable[[], str], Callable[[], str]]:
    """Return the first end point: mean difference over cells and the ends of its interval, in points."""
    return (
        lambda: points(verdict().mean),
        lambda: points(verdict().low),
        lambda: points(verdict().high),
    )


def summary(row: int, arm: str) -> Callable[[], str]:
    """Return a number from the last rows of the table of all arms: 0 the mean RAS, 1 the distance to the best."""
    return lambda: _all_arms()[row - 2][1 + list(ARMS).index(arm)]


def _against_the_best() -> Lines:
    """Return `auto` and its comparator in each cell."""
    heading = ["cell", "best fixed arm", "`auto`", "that arm", "`auto` minus that arm"]
    return [heading, *([each.cell, FIXED[each.rival], *_difference(each)] for each in verdict().cells)]


def _difference(each: auto_test.CellResult) -> list[str]:
    interval = f"{points(each.low)} to {points(each.high)}"
    return [share(each.auto), share(each.fixed), f"{points(each.auto - each.fixed)} ({interval})"]


def _all_arms() -> Lines:
    """Return RAS and win-or-tie rate of every arm in each cell, their means, and the largest distance to the best."""
    cells = {each.cell: [_rates(each.cell, arm) for arm in ARMS] for each in verdict().cells}
    rows = [[cell, *(f"{share(ras)}; {share(tied)}" for ras, tied in rates)] for cell, rates in cells.items()]
    ras = np.array([[rate for rate, _ in rates] for rates in cells.values()])
    distances = (ras[:, : len(FIXED)].max(axis=1, keepdims=True) - ras).max(axis=0)
    return [
        ["cell", *ARMS.values()],
        *rows,
        ["mean RAS", *map(share, ras.mean(axis=0))],
        ["most behind the best fixed arm", *map(share, distances)],
    ]


def _rates(cell: str, arm: str) -> tuple[float, float]:
    """Return RAS and win-or-tie rate of an arm, over its seeds in the test."""
    seeds = auto_test.TESTING if arm == "auto" else auto_test.CHOOSING
    records = read_cells(auto_test.FOLDER / cell).values()
    chosen = [each for each in records if each.key.arm == arm and each.key.seed in seeds]
    return _share_of_wins(chosen), _share_of_wins(chosen, ties=True)


def _share_of_wins(records: Sequence[CellRecord], ties: bool = False) -> float:
    outcomes = [each.outcomes.after for each in records if each.outcomes]
    return float(np.nanmean([wins(after.replace("t", "w") if ties else after) for after in outcomes]))


TABLES = {
    "auto-test": CellTable(RESULTS, _against_the_best),
    "auto-arms": CellTable(RESULTS, _all_arms),
}
