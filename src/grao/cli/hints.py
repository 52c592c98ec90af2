"""Hints for unknown commands, unknown options and arguments in the wrong place: what was probably meant."""

import os
from argparse import Namespace
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from itertools import pairwise, takewhile

from grao.cli.entrants import DATA_FILES, is_run
from grao.config.mistakes import suggestion
from grao.config.other_trainers import COMMANDS, meaning
from grao.config.recipe import Recipe
from grao.config.schema import field_facts, general, names
from grao.errors import InputError, listed

_HELP = ("-h", "--help")
_SEARCH = ("-s", "--search")


def move_help_last(argv: Sequence[str], commands: Collection[str]) -> list[str]:
    """Move a request for help behind its command: `grao help X` and `grao --help X` become `grao X --help`.

    Anything else that follows is a recipe section, shown by `grao train`. `--help -s WORD` becomes `--search WORD`; a
    real option `-s` would clash with options that begin with `-s`.
    """
    words = list(argv)
    if words and words[0] in ("help", *_HELP):
        rest = words[1:]
        length = next((count for count in (2, 1) if " ".join(rest[:count]) in commands), 0)
        words = [*(rest[:length] or ["train"] * bool(rest)), "--help", *rest[length:]]
    for at, pair in enumerate(pairwise(words)):
        if pair[0] in _HELP and pair[1] in _SEARCH:
            return [*words[:at], _SEARCH[-1], *words[at + 2 :]]
    return words


def check_command(argv: Sequence[str], commands: Collection[str], families: Collection[str]) -> None:
    """Refuse an unknown command.

    Args:
        argv: the arguments of `grao`.
        commands: known commands, such as `train` and `reward train`.
        families: first words of the two-word commands.

    Raises:
        InputError: names the command that was probably meant.
    """
    words = list(takewhile(lambda word: not word.startswith("-"), argv[:2]))
    if not words or words[0] in commands or " ".join(words) in commands or words in [[family] for family in families]:
        return
    family = f"{words[0]} " if words[0] in families else ""
    word = words[-1] if family else words[0]
    inside = {name.removeprefix(family): name for name in commands if name.startswith(family)}
    known = inside if family else {**COMMANDS, **inside}
    near = get_close_matches(word.lower().replace("_", "-"), known, n=1)
    if near:
        hint = f"use grao {known[word]}" if word in near else f"did you mean grao {known[near[0]]}?"
    else:
        hint = usage_hint(word, "train") or f"commands are {', '.join(inside.values())} (grao --help)"
    raise InputError(f"grao {family}{word} is unknown; {hint}")


def usage_hint(word: str, command: str) -> str:
    """Return how to pass an argument, guessed from its form; empty if the form says nothing."""
    if word.endswith((".yaml", ".yml")):
        return f"a recipe is given as grao {command} --config {word}"
    if word.endswith(DATA_FILES):
        return f"data is given as --data.path {word}, and grao data check {word} writes a recipe for it"
    if word.endswith(".py"):
        return f"a reward is given as --rewards.0.function {word}:NAME, a script is run with python {word}"
    if is_run(word) and command == "train":
        return f"to resume a run: grao train --resume {word}"
    if os.path.isdir(word) or word.count("/") == 1:
        return f"a model is given as --model.path {word}"
    return ""


def check_names(namespace: Namespace, options: Sequence[str]) -> None:
    """Refuse unknown options, all at once.

    Args:
        namespace: with `command`, its recipe class `root` and its own options `flags`.
        options: dotted names without the leading dashes.

    Raises:
        InputError: names each unknown option, with what was probably meant.
    """
    root, own = namespace.root, {flag[2:].replace("-", "_"): flag for flag in namespace.flags}
    known = {(*path, key) for path, keys in names(root).items() for key in keys} | {*names(root)} if root else set()
    inside = field_facts(root) if root else {}  # keys below a field are checked with the recipe
    problems = []
    for name in options:
        at = tuple(name.split("."))
        if general(at) in known or any(general(at[:length]) in inside for length in range(1, len(at))):
            continue
        word = name.replace("-", "_")
        near = [word] if word in own else [] if root is Recipe and meaning(name) else get_close_matches(word, own, n=1)
        hint = f"did you mean {own[near[0]]}?" if near else suggestion(at, True, root) if root else "a recipe has"
        if not near and root is Recipe and meaning(name) and "." not in name:
            hint = f"use --{meaning(name)}"
        if hint.startswith("a recipe has"):
            hint = f"see grao {namespace.command} --help"
        problems.append(f"--{name} is unknown; {hint}")
    if problems:
        raise InputError(listed(problems))
