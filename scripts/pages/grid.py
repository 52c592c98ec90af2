"""A table of measurements: rows and columns say between them which number of which study stands in each cell."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pages.cells import Measure, Of, Spot

Lines = list[list[str]]
"""The cells of a table, its heading first."""


@dataclass(frozen=True)
class Line:
    """A row or a column: its heading, and what it says of its cells."""

    title: str
    measure: Measure | None = None
    """A row's goes before a column's."""
    spot: Spot = field(default_factory=Spot)
    plain: bool = False
    """Not compared where the best is set in bold, as a row of settings or the figures before training."""


def line(title: str, measure: Measure | None = None, *, point: str = "", plain: bool = False, **spot: str) -> Line:
    """A row or a column: its heading, measure, whether it is `plain`, and the fields of its `Spot`."""
    return Line(title, measure, Spot(point=(point,) if point else (), **spot), plain)


@dataclass(frozen=True)
class Grid:
    """A table."""

    page: str
    corner: str
    """Heading of the first column; with `{}` where `corner_number` stands."""
    columns: Sequence[Line]
    rows: Sequence[Line]
    study: str = ""
    best: str = ""
    """What is set in bold: the best of each of the `rows`, of the `table`, or of the columns with this ending."""
    corner_number: tuple[Measure, Spot] | None = None

    def lines(self) -> Lines:
        """All cells as text."""
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
        measure = row.measure or column.measure or Of()
        return measure(self._spot(row, column))

    def _spot(self, row: Line, column: Line) -> Spot:
        return row.spot.within(column.spot).within(Spot(self.study))

    def _bold(self, body: Lines) -> Sequence[tuple[int, int]]:
        """The greatest cell of each group that is compared."""
        open_cells = [
            (r, c)
            for r, row in enumerate(self.rows)
            for c, column in enumerate(self.columns)
            if not row.plain and not column.plain and body[r][c]
        ]
        if self.best == "rows":
            groups = [[at for at in open_cells if at[0] == r] for r in range(len(self.rows))]
        elif self.best == "table":
            groups = [open_cells]
        else:
            groups = [[at for at in open_cells if self.best and self.columns[at[1]].title.endswith(self.best)]]
        return [at for group in groups for at in group if self._value(*at) == max(self._value(*each) for each in group)]

    def _value(self, row: int, column: int) -> float:
        """Unrounded RAS of a cell."""
        return self._spot(self.rows[row], self.columns[column]).result.ras.over_prompts.value
