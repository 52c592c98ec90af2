"""A local path into rows: a file, a folder of files (shards, or what `save_to_disk` writes) or a pattern of names.

Every mistake is one `InputError` that names the path.
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
"""Files and folders that are looked at."""
_PATTERN = re.compile(r"[*?[]")
_NO_DATA = {"state.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json"}
"""What `datasets` writes beside the rows."""
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Word in the name of a file or folder -> split, as on the hub."""


def is_local(path: str) -> bool:
    """Whether a path means local files; anything else is a hub id."""
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1 or path.lower().endswith(FILE_TYPES)
    return looks_local or _PATTERN.search(path) is not None or os.path.exists(path)


def read_path(name: str, split: str, limit: int | None = None) -> Table:
    """Rows of local files, one after another.

    Args:
        name: a file, a folder or a pattern such as `data/*.parquet`.
        split: which files of a folder are read, if their names tell splits apart.
        limit: take this many rows from the start; what follows in a file of lines is not looked at.

    Raises:
        InputError: if there is no such file, or one cannot be read as what its name says.
    """
    path = Path(os.path.expanduser(name))
    if os.path.isdir(path):
        files = _of_split(path, _files(path), split)
    elif os.path.exists(path):
        files = [path]
    elif _PATTERN.search(name) and "\0" not in name:
        found = list(islice(iglob(str(path), recursive=True), _MOST + 1))
        if len(found) > _MOST:
            raise InputError(f"{shown(name)}: more than {_MOST:,} files have names of this pattern; join some of them")
        files = sorted(Path(file) for file in found if not os.path.isdir(file))
    else:
        raise InputError(f"{shown(name)}: no such file{_nearest(path)}")
    if not files:
        raise InputError(f"{shown(name)}: no file has a name of this pattern")
    for file in files:
        file_type(file)
        if not os.path.isfile(file):
            raise InputError(f"{shown(file)}: is a pipe or a device; write the rows to a file")
    return Table.of(shown(name), chain.from_iterable(read_rows(file, split) for file in files), limit)


def _nearest(path: Path) -> str:
    """What to say about a path that does not exist."""
    if re.match(r"\w\w+:/", str(path)):
        return "; an address is not read: download the file, or give the id of the data set"
    if os.path.islink(path):
        return f"; the link leads to {os.readlink(path)!r}, which does not exist"
    if not os.path.isdir(path.parent):
        return f"; there is no folder {shown(path.parent)!r} either"
    names = [entry.name for entry in islice(os.scandir(path.parent), _MOST)]
    near = difflib.get_close_matches(path.name[:80], sorted(names), 1, cutoff=0.5)
    return f"; did you mean {str(path.parent / near[0])!r}?" if near else ""


def _files(folder: Path) -> list[Path]:
    """The data files of a folder and the folders in it, sorted by path; hidden ones are left out."""
    files: list[Path] = []
    for visited, (inside, folders, names) in enumerate(os.walk(folder)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        kept = (name for name in names if name.lower().endswith(FILE_TYPES) and name not in _NO_DATA)
        files += (Path(inside, name) for name in kept if not name.startswith("."))
        if visited + len(files) > _MOST:
            raise InputError(f"{shown(folder)}: holds too many files; give a pattern such as train/*.parquet")
    return sorted(files)


def _of_split(folder: Path, files: Sequence[Path], split: str) -> list[Path]:
    """Those of one split, all of one type; all if no name speaks of a split.

    Raises:
        InputError: if there are none, or it is not clear which are meant.
    """
    if not files:
        raise InputError(f"{shown(folder)}: is a folder without data files ({', '.join(FILE_TYPES[:8])})")
    labels = {file: _label(file.relative_to(folder)) for file in files}
    known = sorted(set(filter(None, labels.values())))
    exact, same = [name for name in known if name == split.lower()], [n for n in known if _split(n) == _split(split)]
    meant = exact or same or known
    if len(meant) > 1:
        problem = f"holds the splits {', '.join(known)[:200]}"
        raise InputError(f"{shown(folder)}: {problem}; name one with data.split, or give a pattern")
    chosen = [file for file in files if labels[file] in meant or not known]
    types = sorted(set(map(file_type, chosen)))
    if len(types) > 1:
        problem = f"holds {' and '.join(types)} files"
        raise InputError(f"{shown(folder)}: {problem}; give a pattern, such as {shown(folder / f'*{types[0]}')}")
    return chosen


def _label(file: Path) -> str:
    """The name of a file or of a folder it is in, without numbers, that speaks of a split; empty if none does."""
    stem = file.name.lower().split(".")[0]
    names = [re.sub(r"[-_]?\d+([-_]of[-_]\d+)?$", "", stem), *(part.lower() for part in reversed(file.parts[:-1]))]
    return next((name for name in names if _split(name)), "")


def _split(name: str) -> str:
    """The split that a word of the name stands for; empty if none does."""
    return next((_SPLITS[word] for word in re.split(r"[\W\d_]+", name.lower()) if word in _SPLITS), "")
