"""Reading files that a user names or may have changed: path checks, size limits, one-line errors.

Named pipes and devices are rejected; opening them never blocks.
"""

import os
import stat
import unicodedata
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from grao.errors import InputError

LARGEST = 1 << 30
"""Default limit on the size of a file, in bytes."""
_LONGEST_NAME, _LONGEST_PATH = 255, 4000
"""Limits in bytes that all common file systems support."""


def usable_path(text: str) -> str:
    """Return the path with `~` replaced by the home folder.

    Raises:
        ValueError: if no file can have this path: it is empty, too long, not valid Unicode or has control characters.
    """
    if not text:
        raise ValueError("is empty; give a path")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise ValueError(f"contains a character that a path cannot have: {ascii(text)[:60]}")
    if len(text.encode()) > _LONGEST_PATH or any(len(name.encode()) > _LONGEST_NAME for name in text.split("/")):
        raise ValueError(f"is longer than file systems allow: {text[:40]}...")
    try:
        return os.fspath(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError as error:
        raise ValueError(f"refers to an unknown home folder: {text}") from error


def read_packaged(package: str, name: str) -> Any:
    """Load a YAML file of the package, such as `("grao.config", "common.yaml")`."""
    text = files(package).joinpath(name).read_text("utf-8")
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506, CSafeLoader is safe too, and 10x faster


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading, without blocking.

    Raises:
        InputError: if it is a pipe or a device.
        OSError: if it cannot be opened.
    """
    file = open(path, "rb", opener=_nonblocking)  # noqa: SIM115
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise InputError(f"{path} is a pipe or a device; give a file")


def read_bytes(path: Path, largest: int = LARGEST) -> bytes | None:
    """Return the content of a file, or None if it does not exist.

    Args:
        path: the file.
        largest: limit on its size, in bytes.

    Raises:
        InputError: if it is not a regular file, is larger than `largest`, or cannot be read.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(largest + 1) or b"" if size <= largest else b""
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; expected a file") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if max(size, len(content)) > largest:
        raise InputError(f"{path} is larger than {largest:,} bytes, the limit")
    return content


def read_text(path: Path, largest: int = LARGEST) -> str | None:
    """Return the content of a text file without byte order mark, or None if it does not exist.

    Args:
        path: the file.
        largest: limit on its size, in bytes.

    Raises:
        InputError: as `read_bytes`, and if it is not UTF-8.
    """
    content = read_bytes(path, largest)
    try:
        return None if content is None else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path} is not UTF-8 text (line {line}); save it as UTF-8") from error


def _nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
