"""The arguments of `grao evaluate` that are no options: who is evaluated, by the words that stand alone."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grao.config.recipe import Recipe

DATA_FILES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".txt", ".xlsx")
"""Ends of files with rows, such as ready answers."""
Models = tuple[tuple[str, str], ...]
"""Names and paths or ids."""


class EvaluateArguments(NamedTuple):
    """`grao evaluate`."""

    source: Recipe | Path
    """Prompts, rewards and how is sampled: of a recipe, or of the run in this existing folder, models included."""
    folder: Path
    """Where the results go."""
    models: Models = ()
    """Name and path or hub id of each model or file of answers; the recipe's own model if there is none."""
    again: Path | None = None
    """The run whose recorded answers are judged again."""
    options: tuple[tuple[str, Any], ...] = ()
    """Fields of `grao.studies.evaluate.Options` that were given."""


def named(word: str) -> tuple[str, str]:
    """Name and path of what is evaluated: of `NAME=PATH`, or the name of the folder, model or file."""
    name, equals, path = word.partition("=")
    if equals and name and path and "/" not in name and not os.path.exists(word):
        return name, path
    parts = [part for part in Path(word).parts if part not in ("/", ".", "..")]
    if len(parts) > 1 and parts[-1] == "model":
        return parts[-2], word
    last = parts[-1] if parts else word
    ending = next((end for end in DATA_FILES if last.endswith(end)), "")
    return last.removesuffix(ending), word


def is_run(path: str) -> bool:
    """Whether a folder is that of a run whose recipe is known."""
    return all(os.path.exists(os.path.join(path, name)) for name in ("manifest.json", "recipe.yaml"))


def divided(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words that stand alone, and options with their values."""
    alone: list[str] = []
    options: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            alone.append(word)
            continue
        value = None if "=" in word else next(rest, None)
        options += [word] if value is None else [word, value]
    return alone, options
