"""How numbers are rounded and written, and one kind of table for all pages and outputs.

Everything is plain ASCII, so that it fits any terminal; the page sets true minus signs on top (`typeset`). A table goes
to the terminal, a page (`table` in `parts.html.j2`), CSV, Markdown and LaTeX.
"""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from grao.records.numbers import Estimate
from grao.visible import visible

NOT_MEASURED = "not measured"
_LATEX_NAMES = {"\\": "backslash", "~": "asciitilde", "^": "asciicircum", "<": "less", ">": "greater", "|": "bar"}
_LATEX = str.maketrans(
    {character: f"\\text{name}{{}}" for character, name in _LATEX_NAMES.items()}
    | {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\N{MINUS SIGN}": "$-$", "\N{NO-BREAK SPACE}": "~", "\n": " "}
)


def percent(value: float, n: int, signed: bool = False) -> str:
    """A share in percent: one decimal where at least 100 prompts stand behind it, none below.

    Example: percent(0.4133, 300) is `41.3 %`, percent(0.4133, 30) is `41 %`.
    """
    return f"{_rounded(100 * value, n, signed)} %"


def share(estimate: Estimate, signed: bool = False) -> str:
    """The value of an estimate in percent; `not measured` where nothing stands behind it."""
    return percent(estimate.value, estimate.n, signed) if measured(estimate) else NOT_MEASURED


def interval(estimate: Estimate, signed: bool = False) -> str:
    """The interval of an estimate: `36.0 to 47.0 %`; empty where nothing was measured."""
    if not measured(estimate):
        return ""
    return f"{_rounded(100 * estimate.low, estimate.n, signed)} to {percent(estimate.high, estimate.n, signed)}"


def interval_over_seeds(estimate: Estimate | None, prompts: int, signed: bool = False) -> str:
    """The interval of an estimate over seeds, rounded as one over so many prompts; `one seed` without an estimate."""
    return "one seed" if estimate is None else interval(replace(estimate, n=prompts), signed)


def measured(estimate: Estimate) -> bool:
    """Whether the estimate rests on anything."""
    return estimate.n > 0 and all(map(math.isfinite, (estimate.value, estimate.low, estimate.high)))


def level(confidence: float) -> str:
    """`95 %` for 0.95."""
    return f"{100 * confidence:.4g} %"


def number(value: float) -> str:
    """Three significant digits, thousands apart: `0.00123`, `12.3`, `1,234`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def signed(value: float) -> str:
    """Three significant digits with a sign: `+0.5`, `-1`, `0`."""
    return f"{value:+.3g}" if value else "0"


def points(value: float, prompts: int) -> str:
    """A difference of two shares, in points: `+3.2`."""
    return percent(value, prompts, signed=True).removesuffix(" %")


def p_value(p: float | None) -> str:
    """`0.031`, `< 0.001`; empty where there was no test."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def seeds_needed(comparisons: int, alpha: float) -> int:
    """Fewest seeds with which a test over seeds can pass after Holm's correction.

    The least p-value of flipping the signs of n differences is 2 / 2^n, and the correction multiplies it by the
    number of comparisons: 8 seeds for four at 5 %.
    """
    return next(seeds for seeds in count(2) if comparisons * 2 / 2**seeds <= alpha)


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 5 s`, `2 h 7 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600:,} h {whole % 3600 // 60} min"


def typeset(text: str) -> str:
    """True minus signs, and no line break between a number and its percent sign."""
    return re.sub(r"(?<![\w-])-(?=\d)", "\N{MINUS SIGN}", text).replace(" %", "\N{NO-BREAK SPACE}%")


def _rounded(value: float, n: int, signed: bool) -> str:
    digits = 1 if n >= 100 else 0
    return f"{round(value, digits) + 0.0:{'+' if signed else ''},.{digits}f}"


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    cells: Sequence[str]
    share: Estimate | None = None
    """What the page draws on the scale of its block."""
    wider: Estimate | None = None
    """A second interval of the same value, drawn as a thin line."""
    style: str = ""
    """On the page: the name of a colour, or `earlier`, grey, of a model before training."""


@dataclass(frozen=True)
class Block:
    """Rows that belong together."""

    rows: Sequence[Row]
    title: str = ""
    note: str = ""
    """What to make of them."""

    @property
    def scale(self) -> "Scale | None":
        """That holds all that is drawn of its rows; None where that is nothing."""
        drawn = [each for row in self.rows for each in (row.share, row.wider) if each and measured(each)]
        return fitting([end for each in drawn for end in (each.low, each.high)]) if drawn else None


@dataclass(frozen=True)
class Table:
    """Names on the left, numbers on the right; all cells are text as it is to be shown."""

    columns: Sequence[str]
    """Headings."""
    blocks: Sequence[Block]
    title: str = ""
    names: int = 1
    """Columns on the left that hold names."""
    scale: str = ""
    """On the page, heading of a column that draws the rows' shares, before the last one; empty for none."""
    dense: bool = False
    """Many columns: in the terminal they stand close together, and numbers may wrap."""

    @property
    def rows(self) -> Iterator[Row]:
        """Of all blocks."""
        return (row for block in self.blocks for row in block.rows)

    def labelled(self) -> "Table":
        """The titles of the blocks moved into a first column, `Measure`."""
        blocks = []
        for block in self.blocks:
            labels = [block.title, *[""] * len(block.rows)]
            rows = [replace(row, cells=[label, *row.cells]) for label, row in zip(labels, block.rows, strict=False)]
            blocks.append(replace(block, title="", rows=rows))
        return replace(self, columns=["Measure", *self.columns], blocks=blocks, names=self.names + 1)

    def __rich__(self) -> RichTable:
        """For the terminal, as rich's console prints it. Titles of blocks are left out, a line divides them."""
        title = Text(visible(self.title), justify="left")
        table = RichTable(title=title, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=self.dense)
        for heading in self.columns[: self.names]:
            table.add_column(Text(visible(heading)), overflow="fold")
        for heading in self.columns[self.names :]:
            table.add_column(Text(visible(heading)), justify="right", overflow="fold", no_wrap=not self.dense)
        for block in self.blocks:
            for row in block.rows:
                table.add_row(*(Text(visible(cell)) for cell in row.cells), end_section=row is block.rows[-1])
        return table

    def csv(self) -> str:
        """Comma-separated values with a line of headings."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *(row.cells for row in self.rows)])
        return text.getvalue()

    def markdown(self) -> str:
        """A table for a README."""
        rule = ["---" if index < self.names else "---:" for index in range(len(self.columns))]
        cells = ([cell.replace("|", "\\|") for cell in row.cells] for row in self.rows)
        return "".join(f"| {' | '.join(line)} |\n" for line in (self.columns, rule, *cells))

    def latex(self) -> str:
        """A `tabular` for a paper, with the rules of the package booktabs; all text is escaped."""
        alignment = "l" * self.names + "r" * (len(self.columns) - self.names)
        blocks = ("".join(_latex_line(row.cells) for row in block.rows) for block in self.blocks)
        return (
            f"\\begin{{tabular}}{{{alignment}}}\n\\toprule\n{_latex_line(self.columns)}\\midrule\n"
            + "\\midrule\n".join(blocks)
            + "\\bottomrule\n\\end{tabular}\n"
        )


def estimate_row(label: str, estimate: Estimate | None, signed: bool = False) -> Row:
    """A name, the estimate, its interval and its number of prompts; the page draws it on a scale."""
    if estimate is None:
        return Row([label, NOT_MEASURED, "", ""])
    cells = [label, share(estimate, signed), interval(estimate, signed), f"{estimate.n:,}"]
    return Row(cells, estimate, style="earlier" if label == "before" else "")


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], dense: bool = False) -> Table:
    """A table of text alone."""
    return Table(columns, [Block([Row(cells) for cells in rows])], title, dense=dense)


class Scale(NamedTuple):
    """A horizontal axis of shares."""

    low: float
    high: float
    ticks: Sequence[float]

    def at(self, value: float) -> float:
        """Where a value lies, in percent of the width."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)


def fitting(values: Sequence[float]) -> Scale:
    """A scale with three to six round ticks that holds these values, and 0 where that costs less than half of it.

    Example: 0.12 and 0.23 give 0 to 0.3 in steps of 0.1; 0.86 and 0.93 give 0.86 to 0.94 in steps of 0.02.
    """
    low, high = min(values), max(values)
    if 0 < low <= (high - low) * 1.5:
        low = 0.0
    elif 0 > high >= (low - high) * 1.5:
        high = 0.0
    spread = high - low or max(abs(high), 0.01)
    power = 10.0 ** math.floor(math.log10(spread / 5))
    step = power * next(factor for factor in (1, 2, 5, 10) if spread / (factor * power) <= 5.000001)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [float(f"{step * index:.12g}") for index in range(first, max(last, first + 1) + 1)]
    return Scale(ticks[0], ticks[-1], ticks)


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(typeset(cell).translate(_LATEX) for cell in cells) + " \\\\\n"
