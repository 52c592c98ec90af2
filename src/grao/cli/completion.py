"""The shell completion script: it lists all commands, options, settings and their values, so that Tab starts no Python.

shtab generates it from a parser in which every setting of a recipe is an option.
"""

from argparse import SUPPRESS, ArgumentParser
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from grao.cli.help import value_description
from grao.command import installing
from grao.config.schema import field_facts
from grao.errors import InputError

SHELLS = ("bash", "zsh", "fish")
"""Supported shells."""
_BASIC = {"text", "number", "integer", "mapping", "list"}
"""Kinds of values that are not literal choices."""
_FILES = ("path", "function", "output", "ledger", "criterion", "recipe", "labels", "config", "file", "run", "resume")
"""Settings, options and arguments (by their last word) that take files or folders."""


def completion_script(shell: str, parser: ArgumentParser, commands: Mapping[str, ArgumentParser]) -> str:
    """Return the completion script for a shell.

    Args:
        shell: one of `SHELLS`.
        parser: the parser of `grao`; every setting is added to it as an option.
        commands: the parser of each command.

    Raises:
        InputError: if shtab is not installed.
    """
    try:
        shtab: Any = import_module("shtab")
    except ImportError as error:
        raise InputError(f"completion needs the package shtab: {installing('completion')}") from error
    for command in (parser, *commands.values()):
        if root := command.get_default("root"):
            _add_settings(command, root)
        for action in command._actions:
            action.help = "" if action.help == SUPPRESS else action.help  # omitted from the script, as from the help
            if (action.option_strings or [action.dest])[-1].rpartition(".")[2].lstrip("-") in _FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    script: str = shtab.complete(parser, shell)
    return script


def _add_settings(parser: ArgumentParser, root: type) -> None:
    """Add every setting of a recipe that is not an option yet."""
    for path, item in field_facts(root).items():
        name = f"--{'.'.join(path)}"
        if name not in parser._option_string_actions:
            words = value_description(item, root).split(" | ")
            choices = words if len(words) > 1 and not any(word.split()[0] in _BASIC for word in words) else None
            parser.add_argument(name, choices=choices, help=item.doc)
