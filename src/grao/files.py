"""Files that a user names or may have changed: paths that a file system can hold, and contents read whole or refused.

What is no regular file is never waited for: a named pipe, a device, a folder. Every mistake is one line.
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
"""Bytes of the largest file that is read whole, unless a reader sets less."""
_LONGEST_NAME, _LONGEST_PATH = 255, 4000
"""Bytes of a name and of a path that every usual file system takes."""


def usable_path(text: str) -> str:
    """A path, with `~` replaced by the home folder.

    Raises:
        ValueError: if no file can have it: it is empty, too long, or holds control characters or no Unicode text.
    """
    if not text:
        raise ValueError("is empty; give a path")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise ValueError(f"holds a character that a path cannot have: {ascii(text)[:60]}")
    if len(text.encode()) > _LONGEST_PATH or any(len(name.encode()) > _LONGEST_NAME for name in text.split("/")):
        raise ValueError(f"is longer than a file system takes: {text[:40]}...")
    try:
        return os.fspath(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError as error:
        raise ValueError(f"names a home folder that is not known: {text}") from error


def read_packaged(package: str, name: str) -> Any:
    """The content of a YAML file that comes with the package, such as `("grao.config", "common.yaml")`."""
    text = files(package).joinpath(name).read_text("utf-8")
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506, safe too, and ten times as fast


def open_file(path: Path) -> BinaryIO:
    """A file to read from; nothing is waited for.

    Raises:
        InputError: if it is a pipe or a device.
        OSError: if it cannot be opened.
    """
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise InputError(f"{path} is a pipe or a device; give a file")


def read_bytes(path: Path, largest: int = LARGEST) -> bytes | None:
    """The content of a file, None if there is none.

    Raises:
        InputError: if it is no regular file, larger than `largest` bytes, or cannot be read.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(largest + 1) or b"" if size <= largest else b""
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; there must be a file of this name") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if max(size, len(content)) > largest:
        raise InputError(f"{path} is larger than {largest:,} bytes, which cannot be meant")
    return content


def read_text(path: Path, largest: int = LARGEST) -> str | None:
    """The content of a file as text, without a byte order mark; None if there is none.

    Raises:
        InputError: as `read_bytes`, and if it is not UTF-8.
    """
    content = read_bytes(path, largest)
    try:
        return None if content is None else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path} is not UTF-8 text (line {line}); save it as UTF-8") from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
