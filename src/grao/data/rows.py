"""Rows of any source with what messages need: where each one stands."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

from grao.errors import InputError, one_line

_LISTED = 20
"""Columns that a message lists."""


class Row(NamedTuple):
    """One row and where it stands."""

    source: str
    """File, hub id or `the data set`: how messages name it."""
    unit: Literal["line", "row"]
    """What the number counts."""
    number: int
    """From 1."""
    values: Mapping[str, Any]
    """By column."""

    @property
    def at(self) -> str:
        """How a message names it."""
        return f"{self.source}, {self.unit} {self.number}"

    def has(self, name: str) -> bool:
        """Whether there is such a column, or such a field of a column (`a.b`); inside null is null."""
        return _find(self.values, name)[0]

    def cell(self, name: str) -> Any:
        """The value of a column or of a field of one; None if there is none."""
        return _find(self.values, name)[1]


@dataclass(frozen=True)
class Table:
    """Rows of one source."""

    source: str
    """How messages name it."""
    rows: Sequence[Row]
    """At least one."""

    @classmethod
    def of(cls, source: str, rows: Iterable[Row], limit: int | None) -> "Table":
        """The first `limit` rows.

        Raises:
            InputError: if there is none, or one is no mapping of column names to values.
        """
        table = cls(source, list(islice(rows, limit)))
        if not table.rows:
            raise InputError(f"{source}: is empty; at least one row is needed")
        for row in table.rows:
            if not isinstance(row.values, Mapping):
                kind = "a list" if isinstance(row.values, list) else repr(row.values)[:40]
                raise InputError(f"{row.at}: must be an object with named columns, is {kind}")
        return table

    @property
    def names(self) -> list[str]:
        """Of columns, and of the fields (`a.b`) of those that hold objects."""
        return list(dict.fromkeys(path for row in self.rows for path in _paths(row.values)))

    def has(self, name: str) -> bool:
        """Whether any row has this column, or field of a column."""
        return any(row.has(name) for row in self.rows)

    def require(self, fields: Mapping[str, str], hint: str = "") -> None:
        """Checks that every row has these columns.

        Args:
            fields: column -> the field of the recipe that names it, for the message; empty where none does.
            hint: ends the message about a column that no row has.

        Raises:
            InputError: naming the columns there are and the nearest, or the row that lacks one.
        """
        unknown = {name: field for name, field in fields.items() if not self.has(name)}
        if unknown:
            columns = self.names
            listed = ", ".join(repr(column)[:40] for column in columns[:_LISTED])
            named = (f"no column {name!r}" + f" ({field})" * bool(field) for name, field in unknown.items())
            near = difflib.get_close_matches(next(iter(unknown)), columns, 1, cutoff=0.8 if len(unknown) > 1 else 0.5)
            meant = f"; did you mean {near[0][:80]!r}?" if near else hint
            raise InputError(f"{self.source}: has {' and '.join(named)}, only {listed}{meant}")
        for name in fields:
            if lacking := next((row for row in self.rows if not row.has(name)), None):
                raise InputError(f"{lacking.at}: has no column {name!r}, other rows do")


def _find(values: Mapping[str, Any], name: str) -> tuple[bool, Any]:
    """Whether there is such a value, and the value."""
    if name in values:
        return True, values[name]
    column, _, field = name.partition(".")
    inside = values.get(column)
    if not field or not (column in values and isinstance(inside, Mapping | None)):
        return False, None
    return (True, None) if inside is None else _find(inside, field)


def _paths(values: Mapping[str, Any]) -> list[str]:
    """The names of columns, and of the fields of those that hold objects."""
    inside = [(name, field) for name, value in values.items() if isinstance(value, Mapping) for field in value]
    return [*map(str, values), *(f"{name}.{field}" for name, field in inside)]


def shown(text: Any) -> str:
    """A path or another text for a message: printable, in one line and not too long."""
    text = str(text) if str(text).isprintable() else repr(str(text))
    return text if len(text) <= 200 else f"{text[:120]}...{text[-60:]}"


def reason(error: BaseException) -> str:
    """What a library says, for a message."""
    return shown(one_line(error, None))
