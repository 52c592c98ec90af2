"""Corrupts valid input at random, reproducibly from a seed: trees of values, bytes, and files."""

import contextlib
import copy
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import yaml


class Raw(str):
    """Text that is written to a file as it is, without quotes."""


LONG, DEEP = "x" * 5000, 3000
TEXTS = [
    "", " ", "\t", "\n", "a\nb", "\0", "a\0b", "\x1b[31mred\x1b[0m", "\x9b31m", "\u202etxt.exe", "\u2066x\u2069",
    "\u2028",
    "\ufeff", "\ufffe", "\U0010ffff", "é" * 200, LONG, "x" * 256, "a/" * 3000, "/", "//", ".", "..", "../..", "~",
    "~x/y",
    "~nobody_at_all", "-", "--", "-1", "1_000", "0x10", "0o7", "1e400", "-1e400", "1e-400", "nan", ".nan", ".inf",
    "NaN",
    "Infinity", "null", "None", "true", "yes", "no", "on", "2024-01-01", "2024-13-45T99:99:99", "12:30:45", "{}", "[]",
    "{", "[", "}", "]", ":", ": ", "#", "# x", "&a", "*a", "<<", "!!x", "|", ">", "%", "@", "`", "'", '"', "\\", "$x$",
    "$HOME", "${HOME}", "{{ 7 * 7 }}", "{x}", "%s", "%n%n", "<script>alert(1)</script>", "a:b", "a:b:c", ":f", "f:",
    "os:system", "builtins:eval", "json:loads", "nothing.py:f", "x.jsonl", "x.parquet", "/dev/null", "/dev/zero",
    "/proc/self/mem", "/proc/self/environ", "/proc/x", "/dev/null/x", "/nonexistent/x", "http://", "http://[::1",
    "https://user:key@host/v1", "http://host:99999", "file:///etc/passwd", "COM1", "con", "a b", "a;b", "grao",
    "soft", "(",
    "(?P<a", "[a-", "(a+)+$", "a{99999}", "١٢٣", "½", "²", "１２", "sha256:0", "org/name", "a/b/c", "A" * 97 + "/b",
    "auto",
    "all-linear", "transformers", "float64", "helpful", "domain", "both", "none", "hub", "default",
]  # fmt: skip
"""Texts that are invalid or awkward as the value of some option."""
NUMBERS = [
    0, -1, 1, 2, 3, 7, 10**6, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30, 10**300, -(2**63),
    -(10**30),
    0.0, -0.0, 0.5, 1.5, -0.5, 1e-320, 1e-30, 1e30, 1e38, 1e39, 1e160, 1e300, -1e300,
    Raw(".inf"), Raw("-.inf"), Raw(".nan"), Raw("1e400"), Raw("1_000"), Raw("0x1F"), Raw("1" * 60), Raw("NaN"),
    Raw("-Infinity"),
]  # fmt: skip
VALUES: list[Any] = [
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"name": "x"},
    {"a": {"b": {"c": 1}}},
    [1, "a"],
]
VALUES += [[0] * 2000, {f"k{index}": index for index in range(500)}, Raw("2024-01-01"), Raw("[" * 40 + "]" * 40)]
KEYS = [
    "",
    " ",
    "name",
    "a.b",
    "0",
    "-1",
    "path",
    "model",
    "null",
    "~",
    "<<",
    "é",
    "\u202e",
    "x" * 400,
    "__class__",
    "weight",
]
SNIPPETS = [
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\x80", b"\t", b"\r", b"\r\n", b"\x1b[2J", b"\x85",
    b"\n---\n",
    b"\n...\n", b"&a ", b"*a ", b"<<: *a\n", b"!!python/object/apply:os.system [ls] ", b"!!binary aGk= ", b"!x ",
    b"%YAML 9.9\n",
    b"? ", b"- ", b"[", b"]", b"{", b"}", b"\"", b"'", b",", b":", b": ", b"#", b"|", b">", b"\\ud800", b"\\u0000",
    b"\\x00",
    b"a: &a [*a,*a]\n", b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
    b"[" * DEEP, b"{\"a\":" * DEEP, b"- " * DEEP, b"1e400",
    b"9" * 400, b"NaN", b"-Infinity", b"null", b"\xf4\x90\x80\x80", "\u202e".encode(), "\u2028".encode(), b"true",
    b"1", b"=",
]  # fmt: skip


def any_value(draw: Random) -> Any:
    """Return a text, a number or a structure from the lists above."""
    return copy.deepcopy(draw.choice(draw.choice([TEXTS, NUMBERS, VALUES])))


def key_paths(tree: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to each value of a tree."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in children:
        yield (*prefix, key)
        yield from key_paths(value, (*prefix, key))


def mutated(tree: Any, draw: Random) -> Any:
    """Return a copy in which one to three values are replaced, removed, added, renamed or wrapped."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        paths = list(key_paths(tree))
        if not paths:
            return any_value(draw)
        *ancestors, key = draw.choice(paths)
        parent = tree
        for ancestor in ancestors:
            parent = parent[ancestor]
        change = draw.randrange(10)
        if change < 6:
            parent[key] = any_value(draw)
        elif change == 6:
            del parent[key]
        elif change == 7:
            parent[key] = draw.choice([[parent[key]], {"x": parent[key]}, str(parent[key]), [parent[key]] * 2])
        elif change == 8 and isinstance(parent, dict):
            parent[draw.choice(KEYS)] = any_value(draw)
        elif isinstance(parent, dict):
            parent[f"{key}{draw.choice(['', 's', ' ', '_', chr(0)])}"] = parent.pop(key)
        else:
            parent.append(any_value(draw))
    return tree if draw.random() > 0.01 else any_value(draw)


def as_json(tree: Any, **options: Any) -> bytes:
    """Return the tree as JSON, with every `Raw` unquoted."""
    return _unmarked(json.dumps(_marked(tree), **options))


def as_yaml(tree: Any) -> bytes:
    """Return the tree as YAML, with every `Raw` unquoted."""
    return _unmarked(yaml.safe_dump(_marked(tree), sort_keys=False, allow_unicode=True, width=10**9))


def corrupted(content: bytes, draw: Random) -> bytes:
    """Return the bytes with a part removed, repeated, flipped, shuffled or inserted, or other bytes altogether."""
    start, stop = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    change = draw.randrange(12)
    if change < 5:
        return content[:start] + draw.choice(SNIPPETS) + content[start:]
    if change == 5:
        return content[:start]
    if change == 6:
        return content[:start] + content[stop:]
    if change == 7:
        return content[:stop] + content[start:stop] + content[stop:]
    if change == 8:
        lines = content.split(b"\n")
        draw.shuffle(lines)
        return b"\n".join(lines)
    if change == 9 and content:
        flipped = bytearray(content)
        for _ in range(draw.randint(1, 8)):
            flipped[draw.randrange(len(flipped))] = draw.randrange(256)
        return bytes(flipped)
    replacements = [b"", b"\n", b"null", b"[]", b"{}", b"0", b'"x"', b"[" * DEEP, b'{"a":' * DEEP, draw.randbytes(300)]
    with contextlib.suppress(UnicodeDecodeError):
        replacements += [content.decode().encode(coding) for coding in ("utf-16", "utf-32", "utf-8-sig", "utf-7")]
    return draw.choice(replacements)


def displace(path: Path, draw: Random) -> None:
    """Replace a file by nothing, a folder, a pipe, a link, a device, a huge, an unreadable or an empty file."""
    content = path.read_bytes() if path.is_file() else b"{}"
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    change = draw.randrange(9)
    if change == 0:
        path.mkdir()
    elif change == 1:
        os.mkfifo(path)
    elif change in (2, 3, 4):
        path.symlink_to([path.name, "nothing-there", "/dev/zero"][change - 2])
    elif change == 5:
        with path.open("wb") as file:
            file.truncate(3 << 30)
    elif change == 6:
        path.write_bytes(content)
        path.chmod(0)
    elif change == 7:
        path.write_bytes(b"")


def _marked(tree: Any) -> Any:
    """Return the tree with marks around every `Raw`, and with all keys as text."""
    if isinstance(tree, dict):
        return {str(key): _marked(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_marked(value) for value in tree]
    return f"<raw {tree}>" if isinstance(tree, Raw) else tree


def _unmarked(text: str) -> bytes:
    return re.sub(r"""(['"]?)<raw ([^>]*)>\1""", r"\2", text).encode("utf-8", "surrogatepass")
