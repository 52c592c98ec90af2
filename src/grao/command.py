"""Commands in messages, as they can be pasted into the shell that this process was started from."""

import os
import shlex
import shutil
import sys


def command(*words: object) -> str:
    """A command of `grao`, quoted for a shell.

    Example: command("train", "--resume", Path("my run")) is `grao train --resume 'my run'`. Where the shell would not
    find this `grao`, it is named as it was started: `.venv/bin/grao` or `.venv/bin/python -m grao`.
    """
    return shlex.join([*_program(), *map(str, words)])


def installing(extra: str) -> str:
    """The command that installs what an extra of grao needs, for the Python that runs.

    Example: installing("judge") is `.venv/bin/python -m pip install 'grao[judge]'`.
    """
    return shlex.join([_found(sys.executable), "-m", "pip", "install", f"grao[{extra}]"])


def _program() -> list[str]:
    started = sys.argv[0]
    folder, name = os.path.split(started)
    if name == "__main__.py" and os.path.basename(folder) == "grao":
        return [_found(sys.executable), "-m", "grao"]
    return [_found(started)] if os.path.splitext(name)[0] == "grao" else ["grao"]


def _found(program: str) -> str:
    """By its name alone, if that leads to it, or by the shorter path."""
    name, path = os.path.basename(program), os.path.abspath(program)
    if os.path.abspath(shutil.which(name) or "") == path:
        return name
    return min(path, os.path.relpath(path), key=len)
