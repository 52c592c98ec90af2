"""What was probably meant by words of the command line that are no command or no option, or stand alone."""

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


def as_help(argv: Sequence[str], commands: Collection[str]) -> list[str]:
    """The words with a request for help behind its command: `grao help X`, `grao --help X` as `grao X --help`.

    What follows and is no command is a section of the recipe, and so of `grao train`. `--help -s WORD` becomes
    `--search WORD`: as an option, `-s` would take the values of others that begin like it.
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
    """Refuses what is no command.

    Args:
        argv: the words behind `grao`.
        commands: their names, such as `train` and `reward train`.
        families: first words of those that have two.

    Raises:
        InputError: with the command that was probably meant.
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
        hint = f"here it is grao {known[word]}" if word in near else f"did you mean grao {known[near[0]]}?"
    else:
        hint = belongs(word, "train") or f"commands are {', '.join(inside.values())} (grao --help)"
    raise InputError(f"grao {family}{word} is unknown; {hint}")


def belongs(word: str, command: str) -> str:
    """How to give what stands alone, by what it looks like; empty if that says nothing."""
    if word.endswith((".yaml", ".yml")):
        return f"a recipe is given as grao {command} --config {word}"
    if word.endswith(DATA_FILES):
        return f"data is given as --data.path {word}, and grao data check {word} makes a recipe for it"
    if word.endswith(".py"):
        return f"a reward is given as --rewards.0.function {word}:NAME, and a script is run by python {word}"
    if is_run(word) and command == "train":
        return f"to go on with a run: grao train --resume {word}"
    if os.path.isdir(word) or word.count("/") == 1:
        return f"a model is given as --model.path {word}"
    return ""


def check_names(namespace: Namespace, options: Sequence[str]) -> None:
    """Refuses options that neither a command nor its recipe has, all at once.

    Args:
        namespace: `command`, the class `root` of its recipe, and `flags`, the command's own options.
        options: dotted names without the dashes.

    Raises:
        InputError: naming each, with what was probably meant.
    """
    root, own = namespace.root, {flag[2:].replace("-", "_"): flag for flag in namespace.flags}
    known = {(*path, key) for path, keys in names(root).items() for key in keys} | {*names(root)} if root else set()
    inside = field_facts(root) if root else {}  # what stands below a field is for the reader of the recipe
    said = []
    for name in options:
        at = tuple(name.split("."))
        if general(at) in known or any(general(at[:length]) in inside for length in range(1, len(at))):
            continue
        word = name.replace("-", "_")
        near = [word] if word in own else [] if root is Recipe and meaning(name) else get_close_matches(word, own, n=1)
        hint = f"did you mean {own[near[0]]}?" if near else suggestion(at, True, root) if root else "a recipe has"
        if not near and root is Recipe and meaning(name) and "." not in name:
            hint = f"here it is --{meaning(name)}"
        if hint.startswith("a recipe has"):
            hint = f"see grao {namespace.command} --help"
        said.append(f"--{name} is unknown; {hint}")
    if said:
        raise InputError(listed(said))
