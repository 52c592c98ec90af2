"""Tables of the test of `method: auto` (`benchmarks/auto_test.py`), from the records in `studies/auto-test`."""

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
    """A table computed from the studies of all cells."""

    page: str
    lines: Callable[[], Lines]
    """Return all cells as text, heading first."""


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
    """Return the first endpoint: the mean difference over cells and the limits of its interval, in points."""
    return (
        lambda: points(verdict().mean),
        lambda: points(verdict().low),
        lambda: points(verdict().high),
    )


def summary(row: int, arm: str) -> Callable[[], str]:
    """Return a number of the last rows of the table of all arms: row 0 is the mean RAS, 1 the gap to the best."""
    return lambda: _all_arms()[row - 2][1 + list(ARMS).index(arm)]


def _auto_against_best() -> Lines:
    """Return `auto` and the best fixed arm in each cell."""
    heading = ["cell", "best fixed arm", "`auto`", "that arm", "`auto` minus that arm"]
    return [heading, *([result.cell, FIXED[result.rival], *_difference(result)] for result in verdict().cells)]


def _difference(result: auto_test.CellResult) -> list[str]:
    interval = f"{points(result.low)} to {points(result.high)}"
    return [share(result.auto), share(result.fixed), f"{points(result.auto - result.fixed)} ({interval})"]


def _all_arms() -> Lines:
    """Return RAS and win-or-tie rate of every arm in each cell, the mean RAS, and the largest gap to the best arm."""
    cells = {result.cell: [_rates(result.cell, arm) for arm in ARMS] for result in verdict().cells}
    rows = [[cell, *(f"{share(ras)}; {share(tie)}" for ras, tie in rates)] for cell, rates in cells.items()]
    ras = np.array([[rate for rate, _ in rates] for rates in cells.values()])
    gaps = (ras[:, : len(FIXED)].max(axis=1, keepdims=True) - ras).max(axis=0)
    return [
        ["cell", *ARMS.values()],
        *rows,
        ["mean RAS", *map(share, ras.mean(axis=0))],
        ["largest gap to the best fixed arm", *map(share, gaps)],
    ]


def _rates(cell: str, arm: str) -> tuple[float, float]:
    """Return RAS and win-or-tie rate of an arm over its seeds in a cell."""
    seeds = auto_test.TESTING if arm == "auto" else auto_test.CHOOSING
    records = read_cells(auto_test.FOLDER / cell).values()
    runs = [record for record in records if record.key.arm == arm and record.key.seed in seeds]
    return _share_of_wins(runs), _share_of_wins(runs, ties=True)


def _share_of_wins(records: Sequence[CellRecord], ties: bool = False) -> float:
    outcomes = [record.outcomes.after for record in records if record.outcomes]
    return float(np.nanmean([wins(after.replace("t", "w") if ties else after) for after in outcomes]))


TABLES = {
    "auto-test": CellTable(RESULTS, _auto_against_best),
    "auto-arms": CellTable(RESULTS, _all_arms),
}
