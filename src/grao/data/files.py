"""One file into rows: JSON, JSON lines and CSV (each also packed), parquet and arrow.

The file's name decides. Every mistake in a file is one `InputError` that names the file and the line or row.
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow  # type: ignore[import-untyped]
import pyarrow.ipc  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]

from grao.data.rows import Row, reason, shown
from grao.errors import InputError

_TEXTS = (".jsonl", ".json", ".ndjson", ".csv", ".tsv")
_TABLES = (".parquet", ".arrow", ".feather")
_UNPACK: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda file: pyarrow.CompressedInputStream(file, "zstd"),
}
FILE_TYPES = (*_TEXTS, *_TABLES, *(text + packing for text in _TEXTS for packing in _UNPACK))

_REMEDIES: dict[tuple[str, ...], str] = {
    (".xlsx", ".xls", ".ods", ".numbers"): "save the sheet as CSV (UTF-8), its first row naming the columns",
    (".txt", ".md", ".docx", ".pdf"): 'write a .jsonl with a row a line, {"prompt": ..., "reference": ...}',
    (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar"): "unpack it and give the file or the folder in it",
    (".pkl", ".pickle", ".pt", ".npy", ".npz", ".h5"): "save the rows as .parquet or .jsonl",
    (".yaml", ".yml"): "a recipe is given as --config FILE; data is a .jsonl, .csv or .parquet file",
}
"""Ends of files that are brought in place of data -> what to do."""

_CHUNK = 16 * 2**20
"""Bytes read at once."""
_SOME = 4 * _CHUNK
"""Bytes that a file may unpack to, however small it is."""
_RATIO = 200
"""Times its size that a larger one may unpack to; text reaches 20."""
_SAMPLE = 2**16
"""Characters of a CSV file in which its separator is looked for."""
_WRAPPERS = ("data", "rows", "examples", "instances")
"""Under which keys a JSON object may hold its rows, besides the name of the split."""
_UNREADABLE = (pyarrow.ArrowException, OSError, ValueError, OverflowError, TypeError, LookupError)
"""What pyarrow raises for broken files, and for values that Python cannot hold."""

csv.field_size_limit(2**31 - 1)  # of the whole process; by default a cell may have 128 KiB


def file_type(path: Path) -> str:
    """The ending without that of the packing, such as `.jsonl`.

    Raises:
        InputError: if files of this name cannot be read.
    """
    name = path.name.lower()
    if not name.endswith(FILE_TYPES):
        if remedy := next((remedy for ends, remedy in _REMEDIES.items() if name.endswith(ends)), None):
            raise InputError(f"{shown(path)}: cannot read this kind of file; {remedy}")
        types = f"{', '.join((*_TEXTS, *_TABLES))} (the first five also with {', '.join(_UNPACK)})"
        raise InputError(f"{shown(path)}: cannot read this kind of file; use one of {types}")
    for packing in _UNPACK:
        name = name.removesuffix(packing)
    return next(kind for kind in (*_TEXTS, *_TABLES) if name.endswith(kind))


def read_rows(path: Path, split: str) -> Iterator[Row]:
    """The rows of a regular file, of which none may be there.

    Args:
        path: the ending decides how it is read.
        split: the split to read from a JSON object that holds several.

    Raises:
        InputError: if it cannot be read as what its name says.
    """
    name, kind = shown(path), file_type(path)
    if kind in _TABLES:
        return _table_rows(name, path, kind)
    content = _content(name, path)
    return _csv_rows(name, content, kind) if kind in (".csv", ".tsv") else _json_rows(name, content, split)


def _content(name: str, path: Path) -> bytes:
    """The whole file, unpacked, in UTF-8 and without a byte order mark."""
    packing, wide = path.suffix.lower(), (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    unpack = _UNPACK.get(packing)
    content = bytearray()
    try:
        with path.open("rb") as raw, unpack(raw) if unpack else raw as file:
            while chunk := file.read(_CHUNK):
                content += chunk
                if len(content) > max(_SOME, _RATIO * raw.tell()):
                    raise InputError(f"{name}: unpacks to more than {_RATIO} times its size, so it holds no data")
                if b"\0" in chunk and not content.startswith(wide):
                    line = content.count(b"\n", 0, content.index(0)) + 1
                    raise InputError(f"{name}, line {line}: holds a zero byte, so it is no text; save it as UTF-8 text")
        if content.startswith(wide):
            return content.decode("utf-16").encode()
        return bytes(content.removeprefix(codecs.BOM_UTF8))
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: begins like UTF-16, but is none; save it as UTF-8") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{name}: cannot be read: {error.strerror}") from error
        kind = {".gz": "gzip"}.get(packing, packing[1:])
        raise InputError(f"{name}: is no complete {kind} file ({error}); unpack it or fetch it again") from error


def _text(name: str, content: bytes, first_line: int = 1) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + content.count(b"\n", 0, error.start)
        raise InputError(f"{name}, line {line}: is not UTF-8; save the file as UTF-8") from error


def _json(name: str, content: bytes, first_line: int = 1) -> Any:
    text = _text(name, content, first_line)
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise InputError(f"{name}, line {line}, character {error.colno}: malformed JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}, line {first_line}: unreadable JSON: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a ValueError if a key occurs twice, because one of its values would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:80]!r} occurs twice")
    return values


def _json_rows(name: str, content: bytes, split: str) -> Iterator[Row]:
    """Rows of an array, of lines, or of one object that holds them all."""
    if content.lstrip().startswith(b"["):
        rows = _json(name, content)
    else:
        lines = _lines(content)
        head = list(islice(lines, 2))
        first_number, first = head[0] if head else (1, b"")
        goes_on = first.lstrip().startswith(b"{") and not first.rstrip().endswith(b"}")
        if len(head) != 1 and not goes_on:
            return (Row(name, "line", number, _json(name, line, number)) for number, line in chain(head, lines))
        value = _json(name, content)
        rows = _rows_inside(value, split)
        if rows is None:
            return iter([Row(name, "line", first_number, value)])
    return (Row(name, "row", number, row) for number, row in enumerate(rows, 1))


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and text of every line that holds more than white space."""
    number, counted = 1, 0
    for line in re.finditer(rb"[^\n]+", content):
        number, counted = number + content.count(b"\n", counted, line.start()), line.start()
        if line[0].strip():
            yield number, line[0]


def _rows_inside(value: Any, split: str) -> list[Any] | None:
    """The rows of an object that holds them as `{"data": [...]}` or column by column; None if it is a row itself."""
    if not isinstance(value, dict) or not value:
        return None
    for key in (split, *_WRAPPERS):
        if isinstance(rows := value.get(key), list) and all(isinstance(row, dict) for row in rows):
            return rows
    columns = list(value.values())
    if all(isinstance(column, list) for column in columns) and len(set(map(len, columns))) == 1:
        # Lists of objects alone are the conversations of one row.
        is_row = all(isinstance(cell, dict) for column in columns for cell in column)
        return None if is_row else [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    if all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):  # as pandas writes
        is_row = not all(key.isdigit() for key in columns[0])
        return None if is_row else [{name: value[name][key] for name in value} for key in columns[0]]
    return None


def _csv_rows(name: str, content: bytes, kind: str) -> Iterator[Row]:
    """Cells by column name; a quoted cell may span lines, the number is that of the row's first one.

    The separator is the one that Excel's first line `sep=` names, or the one that divides the header into most cells.
    Left out are columns without a name, if they are empty or the first ones (the index of a data frame), and rows
    without any text.
    """
    text, separators, begin = _text(name, content), "\t,;|" if kind == ".tsv" else ",;\t|", 1
    if said := re.match(r"sep=([,;\t|])\r?\n", text):
        text, separators, begin = text[said.end() :], said[1], 2
    sample = text[:_SAMPLE].lstrip("\r\n")
    headers = [next(csv.reader(io.StringIO(sample, newline=""), delimiter=each), []) for each in separators]
    separator = separators[max(range(len(headers)), key=lambda index: len(headers[index]))]
    records = _records(name, text, separator, begin)
    number, header = next(records, (begin, []))
    titles = [cell.strip() for cell in header]
    columns = [title for title in titles if title]
    index = titles.index(columns[0]) if columns else 0
    shape = f"{name}, line {number}: the first line must name each column once, is {separator.join(header)[:80]!r}"
    if len(set(columns)) < len(columns):
        raise InputError(shape)
    for number, cells in records:
        if not any(map(str.strip, cells[len(titles) :])):
            del cells[len(titles) :]
        if len(cells) != len(titles):
            count = f"{len(cells)} cells, but the header has {len(titles)}"
            raise InputError(f"{name}, line {number}: {count}; quote cells with commas or line breaks")
        if any(cell.strip() for title, cell in zip(titles[index:], cells[index:], strict=True) if not title):
            raise InputError(shape)
        yield Row(name, "line", number, {title: cell for title, cell in zip(titles, cells, strict=True) if title})


def _records(name: str, text: str, separator: str, begin: int) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line, and the cells, of each record that has any text."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    number = begin
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield number, cells
            number = begin + reader.line_num
    except csv.Error as error:
        raise InputError(f"{name}, line {number}: malformed CSV: {reason(error)}") from error


def _table_rows(name: str, path: Path, kind: str) -> Iterator[Row]:
    """Rows of a parquet or arrow file, batch by batch."""
    number = 1
    try:
        for batch in _batches(path, kind):
            if len(set(batch.schema.names)) < len(batch.schema.names):
                raise InputError(f"{name}: has two columns of the same name: {', '.join(batch.schema.names)[:80]}")
            batch.validate(full=True)
            for row in _python_rows(name, batch, number):
                yield Row(name, "row", number, row)
                number += 1
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{name}: is no readable {kind[1:]} file: {reason(error)}") from error


def _batches(path: Path, kind: str) -> Iterator[Any]:
    """Record batches; of an arrow file in both of its forms, the one on disk and the stream that `datasets` saves."""
    if kind == ".parquet":
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from file.iter_batches()
        return
    with pyarrow.OSFile(str(path)) as file:
        if file.read(6) == b"ARROW1":
            reader = pyarrow.ipc.open_file(file)
            yield from map(reader.get_batch, range(reader.num_record_batches))
        else:
            file.seek(0)
            yield from pyarrow.ipc.open_stream(file)


def _python_rows(name: str, batch: Any, number: int) -> list[dict[str, Any]]:
    """The rows as Python values.

    Raises:
        InputError: naming row and column of a value that Python cannot hold, such as a date after the year 9999.
    """
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows
    except _UNREADABLE:
        for column, values in zip(batch.schema.names, batch.columns, strict=True):
            for index, value in enumerate(values):
                try:
                    value.as_py()
                except _UNREADABLE as error:
                    where = f"{name}, row {number + index}, column {column!r}"
                    raise InputError(f"{where}: cannot be read: {reason(error)}") from error
        raise
