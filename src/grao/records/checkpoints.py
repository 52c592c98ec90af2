"""Atomic checkpoints: written under a temporary name, sealed with checksums, synced to disk, and then moved into place.

checksums.json in a checkpoint lists the size and SHA-256 of every other file. A checkpoint that deviates from it is
never resumed; it is renamed to `broken-STEP`, and the previous one is used.
"""

import hashlib
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pydantic.dataclasses import dataclass

from grao.errors import InputError
from grao.records.files import Record, sync

DRAFT = ".draft"
"""Folder next to the checkpoints in which the next one is written."""
_PREFIX = "checkpoint-"
OPTIMIZER, STATE = "optimizer.safetensors", "training_state.json"
_NEEDED = ("trainer_state.json", OPTIMIZER, STATE)
"""Files without which a run could be resumed but would reach different weights."""
_FORMER = "optimizer.pt"
"""A file that only checkpoints of earlier versions contain; it is a pickle."""


@dataclass(frozen=True)
class _File:
    size: int
    """In bytes."""
    sha256: str


_SEAL = Record("checksums.json", dict[str, _File])


def checkpoints(folder: Path) -> list[Path]:
    """List all checkpoints of a folder, intact or not, the oldest first."""
    numbered = {path: path.name.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*")}
    return sorted((path for path, step in numbered.items() if step.isdecimal()), key=step_of)


def seal(folder: Path) -> None:
    """Write the checksums of all files in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _SEAL.name)
    _SEAL.write(folder, {str(path.relative_to(folder)): _File(path.stat().st_size, _digest(path)) for path in files})


def publish(draft: Path, target: Path) -> None:
    """Sync a finished folder to disk, then move it to its target and replace what is there.

    Args:
        draft: the finished folder.
        target: final path on the same file system.
    """
    sync_all(draft)
    old = target.with_name(f".{target.name}.old")
    remove(old)
    with suppress(FileNotFoundError):
        target.rename(old)
    draft.rename(target)
    sync(target.parent)
    remove(old)


def sync_all(folder: Path) -> None:
    """Flush a folder and everything in it to disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def rotate(newest: Path, limit: int | None, kept: Iterable[str | None]) -> None:
    """Delete the oldest checkpoints until at most `limit` are left; those of later steps than `newest` do not count.

    Args:
        newest: the checkpoint that was just written; it is never deleted.
        limit: most checkpoints to keep; None or 0 for no limit.
        kept: paths of other checkpoints that are never deleted.
    """
    until = [path for path in checkpoints(newest.parent) if step_of(path) <= step_of(newest)]
    spared = {newest, *(Path(path) for path in kept if path)}
    surplus = max(len(until) - limit, 0) if limit else 0
    for path in [path for path in until if path not in spared][:surplus]:
        remove(path)


def fault(checkpoint: Path) -> str | None:
    """Describe why a run cannot be resumed from a checkpoint; None if all of its files are intact.

    Raises:
        InputError: if an earlier version of grao wrote the checkpoint.
    """
    if (checkpoint / _FORMER).exists():
        remedy = "finish the run with that version, or start a new run with model.path: " + str(checkpoint)
        raise InputError(f"{checkpoint} was written by an earlier version of grao in another format; {remedy}")
    try:
        sealed = _SEAL.read(checkpoint) or {}
        for name, written in sealed.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing, but listed in {_SEAL.name}"
            if (size := path.stat().st_size) != written.size:
                return f"{name} has {size:,} bytes instead of {written.size:,} according to {_SEAL.name}"
            if _digest(path) != written.sha256:
                return f"{name} does not match its checksum in {_SEAL.name}"
    except (InputError, OSError):
        return f"{_SEAL.name} or a file listed in it cannot be read"
    lacking = [name for name in _NEEDED if name not in sealed]
    return f"{lacking[0] if sealed else _SEAL.name} is missing" if lacking else None


def last_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """Find the newest intact checkpoint in a folder, and rename newer ones to `broken-STEP`.

    Returns:
        The checkpoint, None if there is no intact one, and a message for each renamed one.

    Raises:
        InputError: if an earlier version of grao wrote a checkpoint.
    """
    skipped: list[str] = []
    for checkpoint in reversed(checkpoints(folder)):
        if (reason := fault(checkpoint)) is None:
            return checkpoint, skipped
        aside = checkpoint.with_name(f"broken-{step_of(checkpoint)}")
        remove(aside)
        checkpoint.rename(aside)
        skipped.append(f"{checkpoint.name} is skipped and kept as {aside.name}: {reason}")
    return None, skipped


def remove(path: Path) -> None:
    """Delete a file, a link, or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def step_of(checkpoint: Path | None) -> int:
    """Number of optimizer steps at a checkpoint; 0 for None."""
    return int(checkpoint.name.removeprefix(_PREFIX)) if checkpoint else 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
