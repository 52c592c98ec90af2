"""Local files into rows: JSON, JSON lines, CSV (each also .gz) and parquet. The file's name decides.

Every mistake in a file is one `InputError` that names the file and the line or row.
"""

import csv
import difflib
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow  # type: ignore[import-untyped]
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

    def place(self, number: int) -> str:
        """How a message names a row."""
        return f"{self.source}, {self.unit} {number}"

    def columns(self) -> list[str]:
        """Names of all columns in any row, in order of appearance."""
        return list(dict.fromkeys(name for _, row in self.rows for name in row))


def table(source: str, unit: Literal["line", "row"], rows: Numbered, limit: int | None) -> Table:
    """Takes the first `limit` rows.

    Raises:
        InputError: if there is none, or one is no mapping of column names to values.
    """
    taken = list(islice(rows, limit))
    if not taken:
        raise InputError(f"{source}: is empty; at least one row is needed")
    for number, row in taken:
        if not isinstance(row, Mapping):
            found = "a list" if isinstance(row, list) else repr(row)[:40]
            raise InputError(f"{source}, {unit} {number}: must be an object with named columns, is {found}")
    return Table(source, unit, taken)


def is_file_name(path: str) -> bool:
    """Whether a path means a local file; anything else is a hub id."""
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1
    return looks_local or Path(path).exists() or path.lower().endswith(FILE_TYPES)


def read_file(name: str, limit: int | None = None) -> Table:
    """Rows of a local file.

    Args:
        name: its path; the ending decides how it is read. A .json file holds an array or lines.
        limit: take this many rows from the start; what follows in a file of lines is not looked at.

    Raises:
        InputError: if there is no such file or it cannot be read as what its name says.
    """
    path = Path(name).expanduser()
    lower = path.name.lower()
    if path.is_dir():
        raise InputError(f"{name}: is a folder; name one file in it{_some(path)}")
    if not path.exists():
        raise InputError(f"{name}: no such file{_nearest(path)}")
    if not lower.endswith(FILE_TYPES):
        raise InputError(f"{name}: cannot read this kind of file; use one of {', '.join(FILE_TYPES)}")
    if lower.endswith(".parquet"):
        return table(name, "row", _parquet(name, path), limit)
    content = _bytes(name, path)
    if lower.removesuffix(".gz").endswith(".csv"):
        return table(name, "line", _csv(name, content), limit)
    if lower.removesuffix(".gz").endswith(".json") and content.lstrip().startswith(b"["):
        return table(name, "row", _json_array(name, content), limit)
    return table(name, "line", _json_lines(name, content), limit)


def _bytes(name: str, path: Path) -> bytes:
    """The whole file, unpacked, without a byte order mark."""
    opener: Callable[..., Any] = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            content: bytes = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{name}: is no complete gzip file ({error}); unpack it or fetch it again") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from error
    return content.removeprefix(b"\xef\xbb\xbf")


def _text(name: str, content: bytes, first_line: int = 1) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + content.count(b"\n", 0, error.start)
        raise InputError(f"{name}, line {line}: is not UTF-8; save the file as UTF-8") from error


def _json(name: str, text: str, first_line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise InputError(f"{name}, line {line}, character {error.colno}: malformed JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}, line {first_line}: unreadable JSON: {error}") from error


def _json_lines(name: str, content: bytes) -> Numbered:
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            yield number, _json(name, _text(name, line, number), number)


def _json_array(name: str, content: bytes) -> Numbered:
    return enumerate(_json(name, _text(name, content)), 1)


def _csv(name: str, content: bytes) -> Numbered:
    """Cells by column name; a quoted cell may span lines, the number is that of the row's first one."""
    reader = csv.reader(io.StringIO(_text(name, content), newline=""), strict=True)
    header: list[str] | None = None
    number = 1
    try:
        for cells in reader:
            if cells and header is None:
                header = _csv_header(f"{name}, line {number}", cells)
            elif cells and header:
                yield number, _csv_row(f"{name}, line {number}", header, cells)
            number = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{name}, line {number}: malformed CSV: {error}") from error


def _csv_header(place: str, cells: list[str]) -> list[str]:
    if not all(cell.strip() for cell in cells) or len(set(cells)) < len(cells):
        raise InputError(f"{place}: the first line must name each column once, is {','.join(cells)[:80]!r}")
    return cells


def _csv_row(place: str, header: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) != len(header):
        raise InputError(
            f"{place}: {len(cells)} cells, but the header has {len(header)}; quote cells with commas or line breaks"
        )
    return dict(zip(header, cells, strict=True))


def _parquet(name: str, path: Path) -> Numbered:
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name}: is no readable parquet file: {reason}") from error
    return enumerate(rows, 1)


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; there is no folder {str(path.parent)!r} either"
    near = difflib.get_close_matches(path.name, sorted(p.name for p in path.parent.iterdir()), n=1, cutoff=0.5)
    return f"; did you mean {str(path.parent / near[0])!r}?" if near else ""


def _some(folder: Path) -> str:
    names = sorted(p.name for p in folder.iterdir() if p.name.lower().endswith(FILE_TYPES))
    return f", such as {names[0]!r}" if names else f" ({', '.join(FILE_TYPES)})"
