"""Files of a run or study folder: written whole or not at all, and checked when they are read.

`Record` is the only way to read them, for any of them may be torn, edited by hand, or no file at all.
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
"""Deepest nesting and largest number of any record: pages can still be made of them."""


class Record(Generic[T]):
    """A file of JSON: one value of type `T`, or one on each line (`write_lines`, `read_lines`).

    Args:
        name: of the file, the same in every folder.
        kind: `T`, a pydantic dataclass or model. Of a model only the fields that were set are written.
        indent: of the JSON text.
        remedy: what to do about a file that cannot be read.
    """

    def __init__(self, name: str, kind: type[T], indent: int = 2, remedy: str = "restore it") -> None:
        self.name, self.indent, self.remedy = name, indent, remedy
        self.adapter: TypeAdapter[T] = TypeAdapter(kind)

    def write(self, folder: Path, value: T) -> None:
        """Writes the file, and the folder if there is none."""
        self.write_lines(folder, [value], self.indent)

    def read(self, folder: Path) -> T | None:
        """The value in the file, None if there is no file.

        Raises:
            InputError: naming file and field, if it holds something else.
        """
        content = read_bytes(folder / self.name)
        return None if content is None else self.parse(content, str(folder / self.name))

    def write_lines(self, folder: Path, values: Iterable[T], indent: int | None = None) -> None:
        """Writes one line a value, or several if they are indented."""
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        trees = (self.adapter.dump_python(value, mode="json", exclude_unset=True) for value in values)
        replace_text(path, "".join(json.dumps(tree, indent=indent, ensure_ascii=False) + "\n" for tree in trees))

    def read_lines(self, folder: Path) -> list[T]:
        """The values in order; none if there is no file.

        Raises:
            InputError: naming file, line and field, if a line holds something else.
        """
        return [self.parse(line, where) for line, where in self.lines(folder)]

    def read_appended(self, folder: Path) -> list[T]:
        """As `read_lines`, of a file that is still being written: a torn last line is left out."""
        values, lines = [], self.lines(folder)
        for number, (line, where) in enumerate(lines, 1):
            try:
                values.append(self.parse(line, where))
            except InputError:
                if number < len(lines):
                    raise
        return values

    def append(self, folder: Path, value: T) -> None:
        """Adds one line."""
        tree = self.adapter.dump_python(value, mode="json", exclude_unset=True)
        append_line(folder / self.name, json.dumps(tree, ensure_ascii=False))

    def lines(self, folder: Path) -> list[tuple[bytes, str]]:
        """Every line of the file that is not empty, and where it stands."""
        path = folder / self.name
        lines = enumerate((read_bytes(path) or b"").split(b"\n"), 1)
        return [(line, f"{path}, line {number}") for number, line in lines if line]

    def parse(self, text: bytes, where: str) -> T:
        """One value.

        Args:
            text: JSON.
            where: what a message begins with.

        Raises:
            InputError: if it is something else.
        """
        try:
            _check_size(from_json(text))
            return self.adapter.validate_json(text)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(map(str, problem["loc"])) or "all of it"
            said = f"unreadable {Path(self.name).stem} record, {field}: {problem['msg']}"
            raise InputError(f"{where}: {said}; {self.remedy}") from error
        except ValueError as error:
            raise InputError(f"{where}: not valid JSON: {error}; {self.remedy}") from error


def _check_size(tree: Any) -> None:
    """Raises a ValueError for what is nested too deeply, or holds a number too large, to be made a page of."""
    level = [tree]
    for _ in range(_DEEPEST):
        inside: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inside += value.values()
            elif isinstance(value, list):
                inside += value
            elif isinstance(value, int | float) and abs(value) > _LARGEST:
                raise ValueError(f"it holds the number {str(value)[:20]}")
        level = inside
    if level:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")


def replace_text(path: Path, text: str) -> None:
    """Replaces the content of a file. Until the new text is complete on disk, the old file stays."""
    draft = path.with_name(f"{path.name}.part")
    draft.unlink(missing_ok=True)  # a link would lead elsewhere
    with draft.open("x", encoding="utf-8") as file:
        file.write(text)
    sync(draft)
    draft.replace(path)
    sync(path.parent)


def append_line(path: Path, line: str) -> None:
    """Adds a line to a file, and the file and its folder if there is none; never through a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o666), "a", encoding="utf-8", errors="replace") as lines:
        lines.write(f"{line}\n")


def sync(path: Path) -> None:
    """Waits until a file is on the disk, or the names in a folder, where the file system can."""
    with suppress(OSError) if path.is_dir() else nullcontext():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
