"""Commands for messages, ready to paste into the shell that started this process."""

import os
import shlex
import shutil
import sys


def command(*words: object) -> str:
    """Return a `grao` command line, quoted for the shell.

    Example: command("train", "--resume", Path("my run")) is `grao train --resume 'my run'`. If this `grao` is not on
    the PATH, the command starts the way this process was started: `.venv/bin/grao` or `.venv/bin/python -m grao`.
    """
    return shlex.join([*_program(), *map(str, words)])


def installing(extra: str) -> str:
    """Return the command that installs an extra of grao for the running Python.

    Example: installing("judge") is `.venv/bin/python -m pip install 'grao[judge]'`.
    """
    return shlex.join([_shortest(sys.executable), "-m", "pip", "install", f"grao[{extra}]"])


def _program() -> list[str]:
    started = sys.argv[0]
    folder, name = os.path.split(started)
    if name == "__main__.py" and os.path.basename(folder) == "grao":
        return [_shortest(sys.executable), "-m", "grao"]
    return [_shortest(started)] if os.path.splitext(name)[0] == "grao" else ["grao"]


def _shortest(program: str) -> str:
    """Return the name of the program if it is on the PATH, else the shorter of its absolute and relative paths."""
    name, path = os.path.basename(program), os.path.abspath(program)
    if os.path.abspath(shutil.which(name) or "") == path:
        return name
    return min(path, os.path.relpath(path), key=len)
