"""Read rows from a local path: a file, a folder of files (shards, or the output of `save_to_disk`) or a glob pattern.

Every fault raises one `InputError` that names the path.
"""

import difflib
import os
import re
from collections.abc import Sequence
from glob import iglob
from itertools import chain, islice
from pathlib import Path

from grao.data.files import FILE_TYPES, file_type, read_rows
from grao.data.rows import Table, shown
from grao.errors import InputError

_MOST = 10_000
"""Maximum number of files and folders to list."""
_PATTERN = re.compile(r"[*?[]")
_METADATA = {"state.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"}
"""Metadata files that `datasets` writes beside the rows."""
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""{word in the name of a file or folder: split}, as on the hub."""


def is_local(path: str) -> bool:
    """Whether a path denotes local files; anything else is a hub id."""
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1 or path.lower().endswith(FILE_TYPES)
    return looks_local or _PATTERN.search(path) is not None or os.path.exists(path)


def read_path(name: str, split: str, limit: int | None = None) -> Table:
    """Read the rows of local files, one file after another.

    Args:
        name: a file, a folder or a glob pattern such as `data/*.parquet`.
        split: which files of a folder are read, if their names contain splits.
        limit: take this many rows from the start. The lines after them are not parsed.

    Raises:
        InputError: if there is no such file, or one is not in the format that its name says.
    """
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        files = _of_split(path, _files(path), split)
    elif os.path.exists(path):
        files = [path]
    elif _PATTERN.search(name) and "\0" not in name:
        matches = list(islice(iglob(str(path), recursive=True), _MOST + 1))
        if len(matches) > _MOST:
            raise InputError(f"{shown(name)}: more than {_MOST:,} files match this pattern; merge some of them")
        files = sorted(Path(file) for file in matches if not os.path.isdir(file))
    else:
        raise InputError(f"{shown(name)}: no such file{_nearest(path)}")
    if not files:
        raise InputError(f"{shown(name)}: no file matches this pattern")
    for file in files:
        file_type(file)
        if not os.path.isfile(file):
            raise InputError(f"{shown(file)}: is not a regular file; write the rows to a file")
    return Table.of(shown(name), chain.from_iterable(read_rows(file, split) for file in files), limit)


def _nearest(path: Path) -> str:
    """Return a hint about a path that does not exist, to end the error message."""
    if re.match(r"\w\w+:/", str(path)):
        return "; URLs are not supported: download the file, or give the id of a data set on the hub"
    if os.path.islink(path):
        return f"; it is a link to {os.readlink(path)!r}, which does not exist"
    if not os.path.isdir(path.parent):
        return f"; its folder {shown(path.parent)!r} does not exist either"
    names = [entry.name for entry in islice(os.scandir(path.parent), _MOST)]
    near = difflib.get_close_matches(path.name[:80], sorted(names), 1, cutoff=0.5)
    return f"; did you mean {str(path.parent / near[0])!r}?" if near else ""


def _files(folder: Path) -> list[Path]:
    """Return the data files in a folder and its subfolders, sorted by path and without hidden ones."""
    files: list[Path] = []
    for visited, (inside, folders, names) in enumerate(os.walk(folder)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        data_files = (name for name in names if name.lower().endswith(FILE_TYPES) and name not in _METADATA)
        files += (Path(inside, name) for name in data_files if not name.startswith("."))
        if visited + len(files) > _MOST:
            raise InputError(f"{shown(folder)}: has too many files; give a pattern such as train/*.parquet")
    return sorted(files)


def _of_split(folder: Path, files: Sequence[Path], split: str) -> list[Path]:
    """Return the files of one split, all of one type; all files if no name contains a split.

    Raises:
        InputError: if there are none, or the choice is ambiguous.
    """
    if not files:
        raise InputError(f"{shown(folder)}: is a folder without data files ({', '.join(FILE_TYPES[:8])})")
    labels = {file: _label(file.relative_to(folder)) for file in files}
    splits = sorted(set(filter(None, labels.values())))
    exact = [name for name in splits if name == split.lower()]
    equivalent = [name for name in splits if _split(name) == _split(split)]
    selected = exact or equivalent or splits
    if len(selected) > 1:
        problem = f"contains the splits {', '.join(splits)[:200]}"
        raise InputError(f"{shown(folder)}: {problem}; choose one with data.split, or give a pattern")
    chosen = [file for file in files if labels[file] in selected or not splits]
    types = sorted(set(map(file_type, chosen)))
    if len(types) > 1:
        problem = f"contains {' and '.join(types)} files"
        raise InputError(f"{shown(folder)}: {problem}; give a pattern, such as {shown(folder / f'*{types[0]}')}")
    return chosen


def _label(file: Path) -> str:
    """Return the name of the file or of a folder above it, without numbers, that names a split; empty if none does."""
    stem = file.name.lower().split(".")[0]
    names = [re.sub(r"[-_]?\d+([-_]of[-_]\d+)?$", "", stem), *(part.lower() for part in reversed(file.parts[:-1]))]
    return next((name for name in names if _split(name)), "")


def _split(name: str) -> str:
    """Return the split that a word of the name denotes; empty if none does."""
    return next((_SPLITS[word] for word in re.split(r"[\W\d_]+", name.lower()) if word in _SPLITS), "")
