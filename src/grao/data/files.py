"""Read the rows of one file: JSON, JSON lines or CSV (each optionally compressed), parquet or arrow.

The file name determines the format. Every fault raises one `InputError` that names the file and the line or row.
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
_DECOMPRESS: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda file: pyarrow.CompressedInputStream(file, "zstd"),
}
FILE_TYPES = (*_TEXTS, *_TABLES, *(text + packing for text in _TEXTS for packing in _DECOMPRESS))

_REMEDIES: dict[tuple[str, ...], str] = {
    (".xlsx", ".xls", ".ods", ".numbers"): "save the sheet as CSV (UTF-8) with column names in the first row",
    (".txt", ".md", ".docx", ".pdf"): 'write a .jsonl file with one row per line: {"prompt": ..., "reference": ...}',
    (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar"): "unpack it and give the file or folder inside",
    (".pkl", ".pickle", ".pt", ".npy", ".npz", ".h5"): "save the rows as .parquet or .jsonl",
    (".yaml", ".yml"): "pass a recipe as --config FILE; data must be a .jsonl, .csv or .parquet file",
}
"""{file types that are not read: what to do}."""

_CHUNK = 16 * 2**20
"""Bytes per read."""
_SOME = 4 * _CHUNK
"""Bytes that any file may decompress to."""
_RATIO = 200
"""Compression ratio above which a larger file is refused; text reaches 20."""
_SAMPLE = 2**16
"""Characters of a CSV file from which its separator is detected."""
_WRAPPERS = ("data", "rows", "examples", "instances")
"""Keys under which a JSON object may hold its rows, besides the name of the split."""
_UNREADABLE = (pyarrow.ArrowException, OSError, ValueError, OverflowError, TypeError, LookupError)
"""Exceptions of pyarrow about broken files, and about values that Python cannot represent."""

csv.field_size_limit(2**31 - 1)  # process-wide; the default limit is 128 KiB per cell


def file_type(path: Path) -> str:
    """Return the file type without the suffix of the compression, such as `.jsonl`.

    Raises:
        InputError: if files of this type are not supported.
    """
    name = path.name.lower()
    if not name.endswith(FILE_TYPES):
        if remedy := next((remedy for types, remedy in _REMEDIES.items() if name.endswith(types)), None):
            raise InputError(f"{shown(path)}: cannot read this type of file; {remedy}")
        types = f"{', '.join((*_TEXTS, *_TABLES))} (the first five may be compressed: {', '.join(_DECOMPRESS)})"
        raise InputError(f"{shown(path)}: cannot read this type of file; use one of {types}")
    for suffix in _DECOMPRESS:
        name = name.removesuffix(suffix)
    return next(kind for kind in (*_TEXTS, *_TABLES) if name.endswith(kind))


def read_rows(path: Path, split: str) -> Iterator[Row]:
    """Read the rows of a regular file, which may be empty.

    Args:
        path: the file; its name determines the format.
        split: the split to read from a JSON object that holds several.

    Raises:
        InputError: if the file is not in the format that its name says.
    """
    name, kind = shown(path), file_type(path)
    if kind in _TABLES:
        return _table_rows(name, path, kind)
    content = _content(name, path)
    return _csv_rows(name, content, kind) if kind in (".csv", ".tsv") else _json_rows(name, content, split)


def _content(name: str, path: Path) -> bytes:
    """Return the whole file, decompressed, as UTF-8 without a byte order mark."""
    suffix, utf16_marks = path.suffix.lower(), (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    decompress = _DECOMPRESS.get(suffix)
    content = bytearray()
    try:
        with path.open("rb") as raw, decompress(raw) if decompress else raw as file:
            while chunk := file.read(_CHUNK):
                content += chunk
                if len(content) > max(_SOME, _RATIO * raw.tell()):
                    raise InputError(f"{name}: decompresses to over {_RATIO} times its size, so it is not a data file")
                if b"\0" in chunk and not content.startswith(utf16_marks):
                    line = content.count(b"\n", 0, content.index(0)) + 1
                    raise InputError(f"{name}, line {line}: zero byte, so this is not text; save it as UTF-8")
        if content.startswith(utf16_marks):
            return content.decode("utf-16").encode()
        return bytes(content.removeprefix(codecs.BOM_UTF8))
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: has a UTF-16 byte order mark but is not UTF-16; save it as UTF-8") from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{name}: cannot be read: {error.strerror}") from error
        kind = {".gz": "gzip"}.get(suffix, suffix[1:])
        raise InputError(f"{name}: is not a complete {kind} file ({error}); download or compress it again") from error


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
    """Return a JSON object.

    Raises:
        ValueError: if a key occurs twice, because one of its values would be lost.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        ((repeated, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {repeated[:80]!r} occurs twice")
    return values


def _json_rows(name: str, content: bytes, split: str) -> Iterator[Row]:
    """Read the rows of a JSON array, of JSON lines, or of one object that holds them all."""
    if content.lstrip().startswith(b"["):
        rows = _json(name, content)
    else:
        lines = _lines(content)
        head = list(islice(lines, 2))
        first_number, first = head[0] if head else (1, b"")
        spans_lines = first.lstrip().startswith(b"{") and not first.rstrip().endswith(b"}")
        if len(head) != 1 and not spans_lines:
            return (Row(name, "line", number, _json(name, line, number)) for number, line in chain(head, lines))
        value = _json(name, content)
        rows = _rows_inside(value, split)
        if rows is None:
            return iter([Row(name, "line", first_number, value)])
    return (Row(name, "row", number, row) for number, row in enumerate(rows, 1))


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and text of every line that is not blank."""
    number, counted = 1, 0
    for line in re.finditer(rb"[^\n]+", content):
        number, counted = number + content.count(b"\n", counted, line.start()), line.start()
        if line[0].strip():
            yield number, line[0]


def _rows_inside(value: Any, split: str) -> list[Any] | None:
    """Return the rows that an object holds as `{"data": [...]}` or column by column; None if it is a row itself."""
    if not isinstance(value, dict) or not value:
        return None
    for key in (split, *_WRAPPERS):
        if isinstance(rows := value.get(key), list) and all(isinstance(row, dict) for row in rows):
            return rows
    columns = list(value.values())
    if all(isinstance(column, list) for column in columns) and len(set(map(len, columns))) == 1:
        # If all cells are objects, this is one row with conversations.
        is_row = all(isinstance(cell, dict) for column in columns for cell in column)
        return None if is_row else [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    if all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):  # to_json of pandas
        is_row = not all(key.isdigit() for key in columns[0])
        return None if is_row else [{name: value[name][key] for name in value} for key in columns[0]]
    return None


def _csv_rows(name: str, content: bytes, kind: str) -> Iterator[Row]:
    """Read the rows of a CSV file. A row that spans lines has the number of its first line.

    The separator is taken from Excel's first line `sep=`, else it is the one that splits the header into most cells.
    Blank rows are skipped, as are columns without a name that are empty or come first (the index of a data frame).
    """
    text, separators, first_line = _text(name, content), "\t,;|" if kind == ".tsv" else ",;\t|", 1
    if declared := re.match(r"sep=([,;\t|])\r?\n", text):
        text, separators, first_line = text[declared.end() :], declared[1], 2
    sample = text[:_SAMPLE].lstrip("\r\n")
    headers = [next(csv.reader(io.StringIO(sample, newline=""), delimiter=mark), []) for mark in separators]
    separator = separators[max(range(len(headers)), key=lambda index: len(headers[index]))]
    records = _records(name, text, separator, first_line)
    number, header = next(records, (first_line, []))
    titles = [cell.strip() for cell in header]
    columns = [title for title in titles if title]
    index = titles.index(columns[0]) if columns else 0
    bad_header = f"{name}, line {number}: the header must name each column once, got {separator.join(header)[:80]!r}"
    if len(set(columns)) < len(columns):
        raise InputError(bad_header)
    for number, cells in records:
        if not any(map(str.strip, cells[len(titles) :])):
            del cells[len(titles) :]
        if len(cells) != len(titles):
            count = f"{len(cells)} cells, but the header has {len(titles)}"
            raise InputError(f"{name}, line {number}: {count}; quote cells that contain separators or line breaks")
        if any(cell.strip() for title, cell in zip(titles[index:], cells[index:], strict=True) if not title):
            raise InputError(bad_header)
        yield Row(name, "line", number, {title: cell for title, cell in zip(titles, cells, strict=True) if title})


def _records(name: str, text: str, separator: str, first_line: int) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line and the cells of each record that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    number = first_line
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield number, cells
            number = first_line + reader.line_num
    except csv.Error as error:
        raise InputError(f"{name}, line {number}: malformed CSV: {reason(error)}") from error


def _table_rows(name: str, path: Path, kind: str) -> Iterator[Row]:
    """Read the rows of a parquet or arrow file, batch by batch."""
    number = 1
    try:
        for batch in _batches(path, kind):
            if len(set(batch.schema.names)) < len(batch.schema.names):
                raise InputError(f"{name}: has two columns with the same name: {', '.join(batch.schema.names)[:80]}")
            batch.validate(full=True)
            for row in _python_rows(name, batch, number):
                yield Row(name, "row", number, row)
                number += 1
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(f"{name}: is not a readable {kind[1:]} file: {reason(error)}") from error


def _batches(path: Path, kind: str) -> Iterator[Any]:
    """Yield record batches. An arrow file may be in the file format, or in the stream format that `datasets` saves."""
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
    """Return the rows as Python values.

    Raises:
        InputError: if Python cannot represent a value, such as a date after the year 9999; the message names row and
            column.
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
