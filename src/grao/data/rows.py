"""Rows of a source, with their positions for error messages."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

from grao.errors import InputError, one_line

_LISTED = 20
"""Maximum number of columns that an error message lists."""


class Row(NamedTuple):
    """One row and its position in the source."""

    source: str
    """File, hub id or `the data set`, as messages name it."""
    unit: Literal["line", "row"]
    """What `number` counts."""
    number: int
    """From 1."""
    values: Mapping[str, Any]
    """{column: value}."""

    @property
    def at(self) -> str:
        """Source and position, as messages name the row."""
        return f"{self.source}, {self.unit} {self.number}"

    def has(self, name: str) -> bool:
        """Whether the row has this column, or this field of a column (`a.b`). A null column has every field."""
        return _find(self.values, name)[0]

    def cell(self, name: str) -> Any:
        """Return the value of a column, or of a field of one (`a.b`); None if it does not exist."""
        return _find(self.values, name)[1]


@dataclass(frozen=True)
class Table:
    """Rows of one source."""

    source: str
    """File, folder or hub id, as messages name it."""
    rows: Sequence[Row]
    """At least one."""

    @classmethod
    def of(cls, source: str, rows: Iterable[Row], limit: int | None) -> "Table":
        """Collect the rows of a source.

        Args:
            source: its name in messages.
            rows: any number.
            limit: take this many rows from the start; None takes all.

        Raises:
            InputError: if there are no rows, or one is not a mapping of column names to values.
        """
        table = cls(source, list(islice(rows, limit)))
        if not table.rows:
            raise InputError(f"{source}: has no rows")
        for row in table.rows:
            if not isinstance(row.values, Mapping):
                kind = "a list" if isinstance(row.values, list) else repr(row.values)[:40]
                raise InputError(f"{row.at}: must be an object with named columns, got {kind}")
        return table

    @property
    def names(self) -> list[str]:
        """Names of all columns, and of the fields (`a.b`) of those that hold objects."""
        return list(dict.fromkeys(path for row in self.rows for path in _paths(row.values)))

    def has(self, name: str) -> bool:
        """Whether any row has this column, or this field of a column."""
        return any(row.has(name) for row in self.rows)

    def require(self, fields: Mapping[str, str], hint: str = "") -> None:
        """Check that every row has these columns.

        Args:
            fields: {column: recipe field that names it, for the error message; empty if none does}.
            hint: appended to the error message about a column that no row has.

        Raises:
            InputError: if no row has a column (the message lists the existing ones and the closest match), or one row
                lacks it.
        """
        unknown = {name: field for name, field in fields.items() if not self.has(name)}
        if unknown:
            columns = self.names
            listed = ", ".join(repr(column)[:40] for column in columns[:_LISTED])
            named = (f"no column {name!r}" + f" ({field})" * bool(field) for name, field in unknown.items())
            near = difflib.get_close_matches(next(iter(unknown)), columns, 1, cutoff=0.8 if len(unknown) > 1 else 0.5)
            advice = f"; did you mean {near[0][:80]!r}?" if near else hint
            raise InputError(f"{self.source}: has {' and '.join(named)}; its columns are {listed}{advice}")
        for name in fields:
            if lacking := next((row for row in self.rows if not row.has(name)), None):
                raise InputError(f"{lacking.at}: has no column {name!r}, but other rows do")


def _find(values: Mapping[str, Any], name: str) -> tuple[bool, Any]:
    """Return whether the value exists, and the value."""
    if name in values:
        return True, values[name]
    column, _, field = name.partition(".")
    cell = values.get(column)
    if not field or not (column in values and isinstance(cell, Mapping | None)):
        return False, None
    return (True, None) if cell is None else _find(cell, field)


def _paths(values: Mapping[str, Any]) -> list[str]:
    """Return the names of columns, and of the fields of those that hold objects."""
    fields = [(name, field) for name, value in values.items() if isinstance(value, Mapping) for field in value]
    return [*map(str, values), *(f"{name}.{field}" for name, field in fields)]


def shown(text: Any) -> str:
    """Return a path or other text for a message: printable, on one line, at most 200 characters."""
    text = str(text) if str(text).isprintable() else repr(str(text))
    return text if len(text) <= 200 else f"{text[:120]}...{text[-60:]}"


def reason(error: BaseException) -> str:
    """Return the text of a library's error, for a message."""
    return shown(one_line(error, None))
