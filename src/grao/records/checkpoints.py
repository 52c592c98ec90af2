"""Checkpoints that are whole or not there: written under another name, sealed, synced, and only then put in place.

checksums.json in a checkpoint names every other file of it with size and SHA-256. A checkpoint in which anything
differs from that is never resumed from; it is set aside as `broken-STEP`, and the one before it counts.
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
"""Folder beside the checkpoints in which the next one is written."""
_PREFIX = "checkpoint-"
OPTIMIZER, STATE = "optimizer.safetensors", "training_state.json"
_NEEDED = ("trainer_state.json", OPTIMIZER, STATE)
"""Without these a run would go on, but to other weights."""
_FORMER = "optimizer.pt"
"""By which a checkpoint of an earlier version is known: it holds pickles."""


@dataclass(frozen=True)
class _File:
    size: int
    """Bytes."""
    sha256: str


_SEAL = Record("checksums.json", dict[str, _File])


def checkpoints(folder: Path) -> list[Path]:
    """All of a folder, the oldest first, whole or not."""
    numbered = {path: path.name.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*")}
    return sorted((path for path, step in numbered.items() if step.isdecimal()), key=step_of)


def seal(folder: Path) -> None:
    """Writes the checksums of everything in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _SEAL.name)
    _SEAL.write(folder, {str(path.relative_to(folder)): _File(path.stat().st_size, _digest(path)) for path in files})


def publish(draft: Path, place: Path) -> None:
    """Moves a finished folder to its place, where it replaces what is there, once all of it is on the disk."""
    sync_all(draft)
    old = place.with_name(f".{place.name}.old")
    remove(old)
    with suppress(FileNotFoundError):
        place.rename(old)
    draft.rename(place)
    sync(place.parent)
    remove(old)


def sync_all(folder: Path) -> None:
    """Waits until a folder and all that is in it are on the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def rotate(newest: Path, limit: int | None, kept: Iterable[str | None]) -> None:
    """Removes the oldest checkpoints up to the newest one, so that at most `limit` are left.

    Args:
        newest: the one that was just put in place; it always stays.
        limit: None or 0 for no limit.
        kept: further ones that stay.
    """
    until = [path for path in checkpoints(newest.parent) if step_of(path) <= step_of(newest)]
    spared = {newest, *(Path(path) for path in kept if path)}
    surplus = max(len(until) - limit, 0) if limit else 0
    for path in [path for path in until if path not in spared][:surplus]:
        remove(path)


def fault(checkpoint: Path) -> str | None:
    """What keeps a run from going on from a checkpoint; None if every file in it is as it was written.

    Raises:
        InputError: if an earlier version has written it.
    """
    if (checkpoint / _FORMER).exists():
        remedy = "finish the run with that version, or begin anew with model.path: " + str(checkpoint)
        raise InputError(f"{checkpoint} was written by an earlier version of grao, in another format; {remedy}")
    try:
        sealed = _SEAL.read(checkpoint) or {}
        for name, written in sealed.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing, which {_SEAL.name} names"
            if (size := path.stat().st_size) != written.size:
                return f"{name} has {size:,} bytes, and not {written.size:,} as {_SEAL.name} says"
            if _digest(path) != written.sha256:
                return f"{name} does not fit {_SEAL.name}"
    except (InputError, OSError):
        return f"{_SEAL.name} or a file that it names cannot be read"
    lacking = [name for name in _NEEDED if name not in sealed]
    return f"{lacking[0] if sealed else _SEAL.name} is missing" if lacking else None


def last_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint in a folder that can be resumed from, and a line on each newer one, which is set aside.

    Raises:
        InputError: if an earlier version has written it.
    """
    passed: list[str] = []
    for checkpoint in reversed(checkpoints(folder)):
        if (why := fault(checkpoint)) is None:
            return checkpoint, passed
        aside = checkpoint.with_name(f"broken-{step_of(checkpoint)}")
        remove(aside)
        checkpoint.rename(aside)
        passed.append(f"{checkpoint.name} is passed over and kept as {aside.name}: {why}")
    return None, passed


def remove(path: Path) -> None:
    """Removes a file, a link or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def step_of(checkpoint: Path | None) -> int:
    """The steps that were done; 0 without a checkpoint."""
    return int(checkpoint.name.removeprefix(_PREFIX)) if checkpoint else 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
