"""Folder locks: while a run or a study writes into a folder, no other process may.

The lock is the operating system's (`flock`), so that it is released when the process ends, however it ends. The lock
file only names the holder. In a run with several processes, the first one holds the lock for all of them. On file
systems without locks, such as some network file systems, the run continues with a warning.
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
"""Folders locked by this process."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes; nested calls for the same folder have no effect.

    The folder is created if necessary, and removed again if nothing was written into it.

    Raises:
        InputError: if another process holds the lock, or the folder contains a symbolic link.
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
    """Remove a folder and its parents again if they were created within the context and are still empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def check_links(folder: Path) -> None:
    """Check that a folder contains no symbolic links, through which files would be written elsewhere.

    Raises:
        InputError: if there is a symbolic link.
    """
    if link := next((path for path in folder.iterdir() if path.is_symlink()), None):
        raise InputError(f"output: {link} is a symbolic link, which would redirect writes to another place; remove it")


def _acquire(folder: Path) -> int:
    """Acquire the lock and return the handle of the lock file."""
    path = folder / _NAME
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            _lock(handle)
        except BlockingIOError as error:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise InputError(
                f"output: {folder} is in use by {holder}; wait until it ends or choose another folder"
            ) from error
        except (OSError, ImportError) as error:
            problem = f"{folder} cannot be locked on this file system ({error}): do not start a second run in it"
            warnings.warn(problem, stacklevel=5)
        with suppress(FileNotFoundError):  # the previous holder may have deleted the file
            if os.path.samestat(os.fstat(handle), path.stat()):
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                return handle
        os.close(handle)


def _lock(handle: int) -> None:
    import fcntl  # not available on Windows

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
