"""One run, one folder: while a run or a study writes into a folder, no other one does.

The lock is the operating system's (`flock`), so that it ends with the process, however that ends; the file beside it
only says who holds it. Of several processes of one run the first holds it for all. Where a file system knows no locks,
as some of a network do, that is said and the run goes on.
"""

import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from grao.errors import InputError

_NAME = ".lock"
_held: set[Path] = set()
"""Folders that this process holds."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within it, no other process may write into the folder; inside of itself it does nothing.

    The folder is made, and taken away again if nothing was written into it.

    Raises:
        InputError: if another process holds it, or a link in it leads elsewhere.
    """
    key = folder.resolve()
    if key in _held or os.environ.get("RANK", "0") != "0":
        yield
        return
    with no_empty_folders(folder):
        folder.mkdir(parents=True, exist_ok=True)
        check_links(folder)
        handle = _acquire(folder)
        _held.add(key)
        try:
            yield
        finally:
            _held.discard(key)
            (folder / _NAME).unlink(missing_ok=True)
            os.close(handle)


@contextmanager
def no_empty_folders(folder: Path) -> Iterator[None]:
    """Takes away again what of a folder and its parents was made within it and stayed empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def check_links(folder: Path) -> None:
    """Makes sure that what is written into a folder stays in it.

    Raises:
        InputError: naming a symbolic link in it.
    """
    if link := next((path for path in folder.iterdir() if path.is_symlink()), None):
        raise InputError(f"output: {link} is a symbolic link, and what is written here must stay here; remove it")


def _acquire(folder: Path) -> int:
    """The open file whose lock is held."""
    path = folder / _NAME
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            _lock(handle)
        except BlockingIOError as error:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise InputError(
                f"output: {folder} is in use by {holder}; wait until it ends, or choose another folder"
            ) from error
        except (OSError, ImportError) as error:
            problem = f"{folder} cannot be locked here ({error}): start no second run in it"
            warnings.warn(problem, stacklevel=5)
        with suppress(FileNotFoundError):  # whoever held it before may have taken the file away
            if os.path.samestat(os.fstat(handle), path.stat()):
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return handle
        os.close(handle)


def _lock(handle: int) -> None:
    import fcntl  # Windows has none

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
