"""Record files of runs and studies: written completely or not at all, and validated when they are read.

All reading goes through `Record`, because any file may be incomplete, edited by hand, or not a regular file.
"""

import json
import os
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from grao.errors import InputError
from grao.files import read_bytes

T = TypeVar("T")

_DEEPEST, _LARGEST = 40, 1e300
"""Largest nesting depth and largest number of a record; within these limits, pages can be rendered."""


class Record(Generic[T]):
    """A JSON file with one value of type `T`, or with one value per line (`write_lines`, `read_lines`).

    Args:
        name: file name, the same in every folder.
        kind: `T`, a pydantic dataclass or model. Models are written without the fields that were not set.
        indent: indentation of the JSON text.
        remedy: advice for a file that cannot be read, the end of the error message.
    """

    def __init__(self, name: str, kind: type[T], indent: int = 2, remedy: str = "restore it") -> None:
        self.name, self.indent, self.remedy = name, indent, remedy
        self.adapter: TypeAdapter[T] = TypeAdapter(kind)

    def write(self, folder: Path, value: T) -> None:
        """Write the file, creating the folder if necessary."""
        self.write_lines(folder, [value], self.indent)

    def read(self, folder: Path) -> T | None:
        """Read the value; None if there is no file.

        Raises:
            InputError: if the content is invalid; names the file and the field.
        """
        content = read_bytes(folder / self.name)
        return None if content is None else self.parse(content, str(folder / self.name))

    def write_lines(self, folder: Path, values: Iterable[T], indent: int | None = None) -> None:
        """Write the values, one per line without `indent`, creating the folder if necessary.

        Args:
            folder: folder of the file.
            values: content of the file.
            indent: indentation of each value; it then takes several lines.
        """
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        trees = (self.adapter.dump_python(value, mode="json", exclude_unset=True) for value in values)
        replace_text(path, "".join(json.dumps(tree, indent=indent, ensure_ascii=False) + "\n" for tree in trees))

    def read_lines(self, folder: Path) -> list[T]:
        """Read all values in order; an empty list if there is no file.

        Raises:
            InputError: if a line is invalid; names the file, the line and the field.
        """
        return [self.parse(line, where) for line, where in self.lines(folder)]

    def read_appended(self, folder: Path) -> list[T]:
        """Like `read_lines`, for a file that is still being written: an incomplete last line is ignored.

        Raises:
            InputError: if another line is invalid.
        """
        values, lines = [], self.lines(folder)
        for number, (line, where) in enumerate(lines, 1):
            try:
                values.append(self.parse(line, where))
            except InputError:
                if number < len(lines):
                    raise
        return values

    def append(self, folder: Path, value: T) -> None:
        """Append one line."""
        tree = self.adapter.dump_python(value, mode="json", exclude_unset=True)
        append_line(folder / self.name, json.dumps(tree, ensure_ascii=False))

    def lines(self, folder: Path) -> list[tuple[bytes, str]]:
        """Return the non-empty lines of the file, each with its location for error messages."""
        path = folder / self.name
        lines = enumerate((read_bytes(path) or b"").split(b"\n"), 1)
        return [(line, f"{path}, line {number}") for number, line in lines if line]

    def parse(self, text: bytes, where: str) -> T:
        """Parse one value.

        Args:
            text: JSON text.
            where: location of the text, the beginning of the error message.

        Raises:
            InputError: if the text is invalid.
        """
        try:
            _check_size(from_json(text))
            return self.adapter.validate_json(text)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, problem["loc"])) or "all of it"
            message = f"unreadable {Path(self.name).stem} record, {field}: {problem['msg']}"
            raise InputError(f"{where}: {message}; {self.remedy}") from error
        except ValueError as error:
            raise InputError(f"{where}: not valid JSON: {error}; {self.remedy}") from error


def _check_size(tree: Any) -> None:
    """Raise a ValueError if the tree is nested too deeply or contains a number too large to be shown on a page."""
    level = [tree]
    for _ in range(_DEEPEST):
        inside: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inside += value.values()
            elif isinstance(value, list):
                inside += value
            elif isinstance(value, int | float) and abs(value) > _LARGEST:
                raise ValueError(f"the number {str(value)[:20]} is too large")
        level = inside
    if level:
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep")


def replace_text(path: Path, text: str) -> None:
    """Replace the content of a file atomically: the old file stays until the new text is completely on disk."""
    draft = path.with_name(f"{path.name}.part")
    draft.unlink(missing_ok=True)  # never write through a link
    with draft.open("x", encoding="utf-8") as file:
        file.write(text)
    sync(draft)
    draft.replace(path)
    sync(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, creating the file and its folder if necessary; symbolic links are not followed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8", errors="replace") as lines:
        lines.write(f"{line}\n")


def sync(path: Path) -> None:
    """Flush a file to disk, or the entries of a folder if the file system supports that."""
    with suppress(OSError) if path.is_dir() else nullcontext():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
