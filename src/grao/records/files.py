"""Files of a run or study folder: written whole or not at all, and validated when they are read."""

import json
import os
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


class Record(Generic[T]):
    """A file of JSON: one value of type `T`, or one on each line (`write_lines`, `read_lines`).

    Args:
        name: of the file, the same in every folder.
        kind: `T`, a pydantic dataclass or model. Of a model only the fields that were set are written.
        indent: of the JSON text.
    """

    def __init__(self, name: str, kind: type[T], indent: int = 2) -> None:
        self.name, self.indent = name, indent
        self.adapter: TypeAdapter[T] = TypeAdapter(kind)

    def write(self, folder: Path, value: T) -> None:
        """Writes the file, and the folder if there is none."""
        self.write_lines(folder, [value], self.indent)

    def read(self, folder: Path) -> T | None:
        """The value in the file, None if there is no file.

        Raises:
            pydantic.ValidationError: if the file holds something else.
        """
        path = folder / self.name
        return self.adapter.validate_json(path.read_bytes()) if path.exists() else None

    def write_lines(self, folder: Path, values: Iterable[T], indent: int | None = None) -> None:
        """Writes one line a value, or several if they are indented."""
        path = folder / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        trees = (self.adapter.dump_python(value, mode="json", exclude_unset=True) for value in values)
        replace_text(path, "".join(json.dumps(tree, indent=indent, ensure_ascii=False) + "\n" for tree in trees))

    def read_lines(self, folder: Path) -> list[T]:
        """The values in order; none if there is no file.

        Raises:
            pydantic.ValidationError: if a line holds something else.
        """
        path = folder / self.name
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        return [self.adapter.validate_json(line) for line in lines if line]


def replace_text(path: Path, text: str) -> None:
    """Replaces the content of a file. Until the new text is complete on disk, the old file stays."""
    draft = path.with_name(f"{path.name}.part")
    draft.unlink(missing_ok=True)  # a link would lead elsewhere
    with draft.open("x", encoding="utf-8") as file:
        file.write(text)
    sync(draft)
    draft.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file is on the disk, or the names in a folder, where the file system can."""
    with suppress(OSError) if path.is_dir() else nullcontext():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
