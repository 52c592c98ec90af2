"""Local files into rows: JSON, JSON lines, CSV (each also .gz) and parquet. The file's name decides.

Every mistake in a file is one `InputError` that names the file and the line or row.
"""

import csv
import difflib
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet  # type: ignore[import-untyped]

from grao.errors import InputError

Numbered = Iterator[tuple[int, Any]]
"""1-based line or row number, row."""

FILE_TYPES = (".jsonl", ".json", ".csv", ".jsonl.gz", ".json.gz", ".csv.gz", ".parquet")


@dataclass(frozen=True)
class Table:
    """Rows of one source."""

    source: str
    """File, hub id or `the data set`: how messages name it."""
    unit: Literal["line", "row"]
    """What the numbers count."""
    rows: Sequence[tuple[int, Mapping[str, Any]]]
    """1-based number and row; at least one."""

    @classmethod
    def of(cls, source: str, unit: Literal["line", "row"], rows: Numbered, limit: int | None) -> "Table":
        """The first `limit` rows.

        Raises:
            InputError: if there is none, or one is no mapping of column names to values.
        """
        table = cls(source, unit, list(islice(rows, limit)))
        if not table.rows:
            raise InputError(f"{source}: is empty; at least one row is needed")
        for number, row in table.rows:
            if not isinstance(row, Mapping):
                kind = "a list" if isinstance(row, list) else repr(row)[:40]
                raise InputError(f"{table.at(number)}: must be an object with named columns, is {kind}")
        return table

    def at(self, number: int) -> str:
        """How a message names a row."""
        return f"{self.source}, {self.unit} {number}"

    def require(self, fields: Mapping[str, str]) -> None:
        """Checks that every row has these columns.

        Args:
            fields: column -> the field of the recipe that names it, for the message; empty where none does.

        Raises:
            InputError: naming the columns there are and the nearest, or the row that lacks one.
        """
        columns = list(dict.fromkeys(name for _, row in self.rows for name in row))
        for name, field in fields.items():
            if name not in columns:
                listed = ", ".join(repr(column)[:40] for column in columns[:20])
                chosen = f" ({field})" if field else ""
                near = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise InputError(f"{self.source}: has no column {name!r}{chosen}, only {listed}{hint}")
            for number, row in self.rows:
                if name not in row:
                    raise InputError(f"{self.at(number)}: has no column {name!r}, other rows do")


def is_file_name(path: str) -> bool:
    """Whether a path means a local file; anything else is a hub id."""
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1 or path.lower().endswith(FILE_TYPES)
    return looks_local or Path(path).exists()


def read_file(name: str, limit: int | None = None) -> Table:
    """Rows of a local file.

    Args:
        name: its path; the ending decides how it is read. A .json file holds an array or lines.
        limit: take this many rows from the start; what follows in a file of lines is not looked at.

    Raises:
        InputError: if there is no such file or it cannot be read as what its name says.
    """
    path = Path(name).expanduser()
    kind = path.name.lower()
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if file.name.lower().endswith(FILE_TYPES))
        some = f", such as {files[0]!r}" if files else f" ({', '.join(FILE_TYPES)})"
        raise InputError(f"{name}: is a folder; name one file in it{some}")
    if not path.parent.is_dir():
        raise InputError(f"{name}: no such file; there is no folder {str(path.parent)!r} either")
    if not path.exists():
        near = difflib.get_close_matches(path.name, sorted(file.name for file in path.parent.iterdir()), 1, cutoff=0.5)
        hint = f"; did you mean {str(path.parent / near[0])!r}?" if near else ""
        raise InputError(f"{name}: no such file{hint}")
    if not kind.endswith(FILE_TYPES):
        raise InputError(f"{name}: cannot read this kind of file; use one of {', '.join(FILE_TYPES)}")
    if kind.endswith(".parquet"):
        return Table.of(name, "row", _parquet(name, path), limit)
    content = _unpacked(name, path)
    if kind.removesuffix(".gz").endswith(".csv"):
        return Table.of(name, "line", _csv(name, content), limit)
    if kind.removesuffix(".gz").endswith(".json") and content.lstrip().startswith(b"["):
        return Table.of(name, "row", enumerate(_json(name, content), 1), limit)
    lines = ((number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip())
    return Table.of(name, "line", ((number, _json(name, line, number)) for number, line in lines), limit)


def _unpacked(name: str, path: Path) -> bytes:
    """The whole file, without a byte order mark."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            return file.read().removeprefix(b"\xef\xbb\xbf")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{name}: is no complete gzip file ({error}); unpack it or fetch it again") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from error


def _text(name: str, content: bytes, first_line: int = 1) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + content.count(b"\n", 0, error.start)
        raise InputError(f"{name}, line {line}: is not UTF-8; save the file as UTF-8") from error


def _json(name: str, content: bytes, first_line: int = 1) -> Any:
    text = _text(name, content, first_line)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise InputError(f"{name}, line {line}, character {error.colno}: malformed JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}, line {first_line}: unreadable JSON: {error}") from error


def _csv(name: str, content: bytes) -> Numbered:
    """Cells by column name; a quoted cell may span lines, the number is that of the row's first one."""
    reader = csv.reader(io.StringIO(_text(name, content), newline=""), strict=True)
    header: list[str] = []
    number = 1
    try:
        for cells in reader:
            if cells and not header:
                header = cells
                if not all(cell.strip() for cell in cells) or len(set(cells)) < len(cells):
                    listed = repr(",".join(cells)[:80])
                    raise InputError(f"{name}, line {number}: the first line must name each column once, is {listed}")
            elif cells:
                if len(cells) != len(header):
                    count = f"{len(cells)} cells, but the header has {len(header)}"
                    raise InputError(f"{name}, line {number}: {count}; quote cells with commas or line breaks")
                yield number, dict(zip(header, cells, strict=True))
            number = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{name}, line {number}: malformed CSV: {error}") from error


def _parquet(name: str, path: Path) -> Numbered:
    try:
        return enumerate(pyarrow.parquet.read_table(path).to_pylist(), 1)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: is no readable parquet file: {' '.join(str(error).split())[:200]}") from error
