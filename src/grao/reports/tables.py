"""Number formatting, and one table class for terminals, pages (`table` in `parts.html.j2`), CSV, Markdown and LaTeX.

All text is plain ASCII, so that any terminal can show it; pages replace hyphens by true minus signs (`typeset`).
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
    """Format a share in percent, with one decimal if it is based on at least 100 prompts and none otherwise.

    Args:
        value: share, 1 for 100 %.
        n: prompts that the share is based on.
        signed: whether positive values get a plus sign.

    Example: percent(0.4133, 300) is `41.3 %`, percent(0.4133, 30) is `41 %`.
    """
    return f"{_rounded(100 * value, n, signed)} %"


def share(estimate: Estimate, signed: bool = False) -> str:
    """Format the value of an estimate in percent; `not measured` if it is based on no prompts."""
    return percent(estimate.value, estimate.n, signed) if is_measured(estimate) else NOT_MEASURED


def interval(estimate: Estimate, signed: bool = False) -> str:
    """Format the interval of an estimate, `36.0 to 47.0 %`; empty if it is based on no prompts."""
    if not is_measured(estimate):
        return ""
    return f"{_rounded(100 * estimate.low, estimate.n, signed)} to {percent(estimate.high, estimate.n, signed)}"


def interval_over_seeds(estimate: Estimate | None, prompts: int, signed: bool = False) -> str:
    """Format an interval over seeds, rounded as for `prompts` prompts; `one seed` without an estimate."""
    return "one seed" if estimate is None else interval(replace(estimate, n=prompts), signed)


def is_measured(estimate: Estimate) -> bool:
    """Whether the estimate is finite and based on at least one prompt."""
    return estimate.n > 0 and all(map(math.isfinite, (estimate.value, estimate.low, estimate.high)))


def level(confidence: float) -> str:
    """`95 %` for 0.95."""
    return f"{100 * confidence:.4g} %"


def number(value: float) -> str:
    """Format with three significant digits and thousands separators: `0.00123`, `12.3`, `1,234`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def signed(value: float) -> str:
    """Format with three significant digits and a sign: `+0.5`, `-1`, `0`."""
    return f"{value:+.3g}" if value else "0"


def points(value: float, prompts: int) -> str:
    """Format a difference of two shares in percentage points, rounded as for `prompts` prompts: `+3.2`."""
    return percent(value, prompts, signed=True).removesuffix(" %")


def p_value(p: float | None) -> str:
    """Format a p-value: `0.031`, `< 0.001`; empty for None."""
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def seeds_needed(comparisons: int, alpha: float) -> int:
    """Fewest seeds with which a sign-flip test over seeds can be significant after Holm's correction.

    The smallest p-value of n differences is 2 / 2^n, and the correction multiplies it by the number of comparisons:
    four comparisons at 5 % need 8 seeds.

    Args:
        comparisons: number of tests.
        alpha: significance level.
    """
    return next(seeds for seeds in count(2) if comparisons * 2 / 2**seeds <= alpha)


def duration(seconds: float) -> str:
    """Format a duration: `4.2 s`, `3 min 5 s`, `2 h 7 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600:,} h {whole % 3600 // 60} min"


def typeset(text: str) -> str:
    """Use true minus signs, and prevent line breaks between a number and its percent sign."""
    return re.sub(r"(?<![\w-])-(?=\d)", "\N{MINUS SIGN}", text).replace(" %", "\N{NO-BREAK SPACE}%")


def _rounded(value: float, n: int, signed: bool) -> str:
    digits = 1 if n >= 100 else 0
    return f"{round(value, digits) + 0.0:{'+' if signed else ''},.{digits}f}"


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    cells: Sequence[str]
    share: Estimate | None = None
    """Estimate that the page draws on the scale of the block."""
    wider: Estimate | None = None
    """A second interval of the same value, drawn as a thin line."""
    style: str = ""
    """Style on the page: a colour name, or `earlier` (grey) for a model before training."""


@dataclass(frozen=True)
class Block:
    """A group of related rows."""

    rows: Sequence[Row]
    title: str = ""
    note: str = ""
    """Explanation for the reader."""

    @property
    def scale(self) -> "Scale | None":
        """A scale that covers all intervals drawn in the block; None if nothing is drawn."""
        drawn = [each for row in self.rows for each in (row.share, row.wider) if each and is_measured(each)]
        return round_scale([end for each in drawn for end in (each.low, each.high)]) if drawn else None


@dataclass(frozen=True)
class Table:
    """A table with names on the left and numbers on the right; cells are formatted text."""

    columns: Sequence[str]
    """Column headings."""
    blocks: Sequence[Block]
    title: str = ""
    names: int = 1
    """Number of name columns on the left."""
    scale: str = ""
    """Heading of the page's extra column that draws the intervals, before the last column; empty for no such column."""
    dense: bool = False
    """Whether the terminal sets the columns close together and wraps numbers, for tables with many columns."""

    @property
    def rows(self) -> Iterator[Row]:
        """Rows of all blocks."""
        return (row for block in self.blocks for row in block.rows)

    def labelled(self) -> "Table":
        """Return the table with the titles of the blocks moved into a first column, `Measure`."""
        blocks = []
        for block in self.blocks:
            labels = [block.title, *[""] * len(block.rows)]
            rows = [replace(row, cells=[label, *row.cells]) for label, row in zip(labels, block.rows, strict=False)]
            blocks.append(replace(block, title="", rows=rows))
        return replace(self, columns=["Measure", *self.columns], blocks=blocks, names=self.names + 1)

    def __rich__(self) -> RichTable:
        """Render for the terminal; blocks are separated by a line and lose their titles."""
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
        """Return the table as CSV with a header row."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.columns, *(row.cells for row in self.rows)])
        return text.getvalue()

    def markdown(self) -> str:
        """Return the table as a Markdown table."""
        rule = ["---" if index < self.names else "---:" for index in range(len(self.columns))]
        cells = ([cell.replace("|", "\\|") for cell in row.cells] for row in self.rows)
        return "".join(f"| {' | '.join(line)} |\n" for line in (self.columns, rule, *cells))

    def latex(self) -> str:
        """Return the table as a LaTeX `tabular` with booktabs rules; all text is escaped."""
        alignment = "l" * self.names + "r" * (len(self.columns) - self.names)
        blocks = ("".join(_latex_line(row.cells) for row in block.rows) for block in self.blocks)
        return (
            f"\\begin{{tabular}}{{{alignment}}}\n\\toprule\n{_latex_line(self.columns)}\\midrule\n"
            + "\\midrule\n".join(blocks)
            + "\\bottomrule\n\\end{tabular}\n"
        )


def estimate_row(label: str, estimate: Estimate | None, signed: bool = False) -> Row:
    """A row with label, estimate, interval and number of prompts, which the page draws on the scale of the block."""
    if estimate is None:
        return Row([label, NOT_MEASURED, "", ""])
    cells = [label, share(estimate, signed), interval(estimate, signed), f"{estimate.n:,}"]
    return Row(cells, estimate, style="earlier" if label == "before" else "")


def plain_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], dense: bool = False) -> Table:
    """A table with a single block and no scale."""
    return Table(columns, [Block([Row(cells) for cells in rows])], title, dense=dense)


class Scale(NamedTuple):
    """A horizontal axis of shares."""

    low: float
    high: float
    ticks: Sequence[float]

    def at(self, value: float) -> float:
        """Position of a value in percent of the width."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)


def round_scale(values: Sequence[float]) -> Scale:
    """Choose a scale with round ticks that covers the values, and 0 if it is near enough to them.

    0 is included if it is at most 1.5 times the range of the values away.

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
