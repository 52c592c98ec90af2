"""Anything at all as data: it is read, or it is one line that says what is wrong; never another error, never a wait."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from grao.config.recipe import DataConfig
from grao.data.load import examples_from_dataset, load_examples, load_split
from grao.data.sources import read_path
from grao.errors import InputError

ROWS: list[dict[str, Any]] = [
    {"prompt": [{"role": "user", "content": f"Wie spät? {i}"}], "reference": "Sechs.", "n": {"a": [i, None]}}
    for i in range(4)
]
LONG = "a" * 5000
INSERTED = [b"\0", b"\xff\xfe", b'"', b"{", b"[" * 2000, b"\\ud800", b"9" * 5000, b"\r", b"NaN"]
INSTEAD = [b"null", b"true", b"-1e999", b"{}", b"[]", b'""', b"\x7f\xff\xff\xff"]


def _tsv() -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter="\t").writerows([list(ROWS[0]), *([json.dumps(v) for v in row.values()] for row in ROWS)])
    return out.getvalue().encode()


def _table(write: Any) -> bytes:
    sink = pa.BufferOutputStream()
    write(pa.Table.from_pylist(ROWS), sink)
    return bytes(sink.getvalue())


def _stream(table: pa.Table, sink: Any) -> None:
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


LINES = "\n".join(map(json.dumps, ROWS)).encode()
VALID = {
    "a.jsonl": LINES,
    "a.json": json.dumps(ROWS, indent=1).encode(),
    "w.json": json.dumps({"data": ROWS}).encode(),
    "a.tsv": _tsv(),
    "u.csv": _tsv().decode().encode("utf-16"),
    "a.jsonl.gz": gzip.compress(LINES),
    "a.jsonl.bz2": bz2.compress(LINES),
    "a.jsonl.xz": lzma.compress(LINES),
    "a.jsonl.zst": pa.compress(LINES, codec="zstd", asbytes=True),
    "a.parquet": _table(pq.write_table),
    "a.feather": _table(pa.feather.write_feather),
    "a.arrow": _table(_stream),
}


def _mutated(content: bytes, draw: random.Random) -> bytes:
    """With bytes flipped, cut out, doubled, put elsewhere or exchanged for what programs stumble over."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at, to = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        match draw.randrange(6):
            case 0:
                data[at : at + 1] = draw.randbytes(1)
            case 1:
                del data[at : min(to, at + 50)]
            case 2:
                data[at:at] = data[at : min(to, at + 50)]
            case 3:
                data = data[: draw.randrange(len(data) + 1)]
            case 4:
                data[at:at] = draw.choice(INSERTED)
            case 5:
                data[at : at + 8] = draw.choice(INSTEAD)
    return bytes(data)


def _checked(read: Callable[[], Any]) -> str:
    """How reading ended; anything but an end in time, with examples or one line of reasonable length, fails."""
    begin, outcome = time.monotonic(), "read"
    try:
        read()
    except InputError as error:
        outcome = str(error)
    assert time.monotonic() - begin < 5
    assert outcome.isprintable(), outcome
    assert len(outcome) < 700
    return outcome


def _outcome(path: str) -> str:
    return _checked(lambda: load_split(DataConfig(path=path, held_out=1), seed=0))


@pytest.mark.parametrize("name", VALID)
def test_mutated_files(tmp_path: Path, name: str) -> None:
    """60 variants of every kind of file; the unchanged one is read."""
    path = tmp_path / name
    path.write_bytes(VALID[name])
    assert len(load_examples(DataConfig(path=str(path))).examples) == 4
    draw = random.Random(name)
    for _ in range(60):
        path.write_bytes(_mutated(VALID[name], draw))
        _outcome(str(path))


@pytest.mark.parametrize("name", VALID)
def test_wrong_endings(tmp_path: Path, name: str) -> None:
    for other in VALID:
        (tmp_path / other).write_bytes(VALID[name])
        _outcome(str(tmp_path / other))


VALUES = [
    None, True, -1, 2**70, float("nan"), float("inf"), b"\xff", "", " ", "x", "\ud800", "\0", [], {}, [[]], [{}],
    [None], [""], {"role": "user"}, [{"role": "user"}],
    [{"role": None, "content": None}], [{"role": "", "content": ""}],
    [{"role": 1, "content": "x"}], [{"role": "user", "content": {}}], [{"role": "user", "content": [[]]}],
    [{"role": "user", "content": [None]}], [{"role": "assistant", "content": "x"}], [{"from": "gpt", "value": []}],
    [{"role": "user", "content": "x", "tool_calls": {}}], [{"role": "user", "content": "x", "tool_calls": [[]]}],
    [{"role": "user", "content": "x", "tool_calls": [{"function": []}]}], [{"role": "function_call", "content": "["}],
    [{"role": "user", "content": "x", "function_call": True}], "[{", "[{}]", '[{"role":1}]', "[{'role': 'user'}, 1]",
    [{"role": "user", "content": "x", "tool_calls": [{"name": "f", "arguments": "[" * 5000}]}], object(), {1, 2},
    range(3),
    [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "[{" * 3000, '[{"role":' * 300, float,
]  # fmt: skip


@pytest.mark.parametrize("fields", [{}, {"rejected": "worse"}, {"prompt": "extra.a"}, {"format": "hh"}])
def test_any_value_in_any_column(fields: dict[str, Any]) -> None:
    good = {"prompt": "a", "reference": "b", "worse": "c", "extra": {"a": "d"}, "chosen": "e", "rejected": "f"}
    for column in good:
        for value in VALUES:
            rows = [good, {**good, column: value}]
            _checked(lambda: examples_from_dataset(rows, DataConfig(path="unused", **fields)))  # noqa: B023


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/dev/null", "/dev/null: cannot read this type of file"),
        ("/dev/fd/0", "/dev/fd/0"),
        ("/proc/self/mem", "cannot read this type of file"),
        (f"{LONG}.jsonl", "aaa.jsonl: no such file"),
        (f"./{'b/' * 3000}x.csv", "x.csv: no such file; its folder"),
        ("a\0b.jsonl", r"'a\x00b.jsonl': no such file"),
        ("*\0/*.jsonl", "no such file"),
        ("a\nb.jsonl", r"'a\nb.jsonl': no such file"),
        ("~nobody-here/x.jsonl", "no such file"),
    ],
)
def test_paths_that_are_none(path: str, message: str) -> None:
    assert message in _checked(lambda: read_path(path, "train"))


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s.csv"))
    (tmp_path / "zero.parquet").symlink_to("/dev/zero")
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    for name in ("pipe.jsonl", "s.csv", "zero.parquet"):
        assert _outcome(str(tmp_path / name)).endswith(f"{name}: is not a regular file; write the rows to a file")
    assert "which does not exist" in _outcome(str(tmp_path / "loop.jsonl"))
    assert "is a folder without data files" in _outcome(str(tmp_path / "folder.jsonl"))
    server.close()


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("byte", [b"a", b"\0"])
def test_files_that_unpack_to_more_than_they_should(tmp_path: Path, byte: bytes, packing: str) -> None:
    (tmp_path / f"a.jsonl.{packing}").write_bytes(PACK[packing](byte * 2**20) * 70)
    wrong = "zero byte" if byte == b"\0" else "decompresses to over 200 times its size"
    assert wrong in _outcome(str(tmp_path / f"a.jsonl.{packing}"))


def test_a_sparse_file_is_left_at_once(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.truncate(2**36)
    assert "a.jsonl, line 1: zero byte" in _outcome(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("depth", [900, 5000, 100_000])
def test_depth(tmp_path: Path, depth: int) -> None:
    calls = "[" * depth + "]" * depth
    row = f'{{"prompt": [{{"role": "user", "content": "a", "x": {calls}}}], "reference": "b"}}'
    (tmp_path / "a.jsonl").write_text(f"{row}\n{row}\n")
    assert "nested more than" in (said := _outcome(str(tmp_path / "a.jsonl"))) or "unreadable JSON" in said


def test_wide_and_long(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",".join(f"c{i}" for i in range(50_000)) + "\n" + "x," * 49_999 + "y\n")
    assert "has no column 'prompt'" in _outcome(str(tmp_path / "a.csv"))
    (tmp_path / "b.csv").write_text('prompt,reference\n"' + "x" * 20_000_000)
    assert "line 2: malformed CSV" in _outcome(str(tmp_path / "b.csv"))
    (tmp_path / "c.jsonl").write_text("{" + "x" * 20_000_000)
    assert "line 1, character 2: malformed JSON" in _outcome(str(tmp_path / "c.jsonl"))
