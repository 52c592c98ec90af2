"""A table of measurements: its rows and columns together determine which number of which study a cell shows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pages.cells import Field, Measure, Spot

Lines = list[list[str]]
"""The cells of a table, heading first."""


@dataclass(frozen=True)
class Line:
    """A row or a column: its heading, and what it specifies about its cells."""

    title: str
    measure: Measure | None = None
    """That of the row takes precedence over that of the column."""
    spot: Spot = field(default_factory=Spot)
    plain: bool = False
    """Never in bold, such as a row of settings or values before training."""


def line(title: str, measure: Measure | None = None, *, point: str = "", plain: bool = False, **spot: str) -> Line:
    """A `Line` whose `Spot` has the remaining keywords as its fields."""
    return Line(title, measure, Spot(point=(point,) if point else (), **spot), plain)


@dataclass(frozen=True)
class Grid:
    """A table whose cells are computed from the records of studies."""

    page: str
    corner: str
    """Heading of the first column; `{}` is replaced by `corner_number`."""
    columns: Sequence[Line]
    rows: Sequence[Line]
    study: str = ""
    best: str = ""
    """Where the best RAS is bold: each of the `rows`, the whole `table`, or columns whose heading ends with this."""
    corner_number: tuple[Measure, Spot] | None = None

    def lines(self) -> Lines:
        """Return all cells as text, heading first."""
        body = [[self._cell(row, column) for column in self.columns] for row in self.rows]
        for row, column in self._bold(body):
            body[row][column] = re.sub(r"^[\d.]+( %)?", r"**\g<0>**", body[row][column])
        corner = self.corner
        if self.corner_number:
            measure, spot = self.corner_number
            corner = corner.format(measure(spot.within(Spot(self.study))))
        heading = [corner, *(column.title for column in self.columns)]
        return [heading, *([row.title, *cells] for row, cells in zip(self.rows, body, strict=True))]

    def _cell(self, row: Line, column: Line) -> str:
        measure = row.measure or column.measure or Field()
        return measure(self._spot(row, column))

    def _spot(self, row: Line, column: Line) -> Spot:
        return row.spot.within(column.spot).within(Spot(self.study))

    def _bold(self, body: Lines) -> Sequence[tuple[int, int]]:
        """Row and column of each cell that holds the best value of its group."""
        compared = [
            (r, c)
            for r, row in enumerate(self.rows)
            for c, column in enumerate(self.columns)
            if not row.plain and not column.plain and body[r][c]
        ]
        if self.best == "rows":
            groups = [[cell for cell in compared if cell[0] == r] for r in range(len(self.rows))]
        elif self.best == "table":
            groups = [compared]
        else:
            groups = [[cell for cell in compared if self.best and self.columns[cell[1]].title.endswith(self.best)]]
        return [cell for group in groups for cell in group if self._value(*cell) == max(self._value(*c) for c in group)]

    def _value(self, row: int, column: int) -> float:
        """Unrounded RAS of a cell."""
        return self._spot(self.rows[row], self.columns[column]).result.ras.over_prompts.value
