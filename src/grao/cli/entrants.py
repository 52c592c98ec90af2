"""The positional arguments of `grao evaluate`: what is evaluated."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grao.config.recipe import Recipe

DATA_FILES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".txt", ".xlsx")
"""Endings of files with rows, such as ready answers."""
Models = tuple[tuple[str, str], ...]
"""(name, path or hub id) of each model."""


class EvaluateArguments(NamedTuple):
    """Arguments of `grao evaluate`."""

    source: Recipe | Path
    """Where prompts, rewards and sampling come from: a recipe, or a run's folder, whose models are evaluated too."""
    folder: Path
    """Output folder."""
    models: Models = ()
    """Models and files of answers; if empty, the recipe's own model."""
    rejudged: Path | None = None
    """The run whose recorded answers are judged again."""
    options: tuple[tuple[str, Any], ...] = ()
    """Given fields of `grao.studies.evaluate.Options`."""


def name_and_path(word: str) -> tuple[str, str]:
    """Return name and path of an argument `NAME=PATH`, or of a path, which is then named after its folder or file."""
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
    """Whether a folder holds a run with its recipe."""
    return all(os.path.exists(os.path.join(path, name)) for name in ("manifest.json", "recipe.yaml"))


def split_arguments(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split words into positional arguments, and options with their values."""
    positional: list[str] = []
    options: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            positional.append(word)
            continue
        value = None if "=" in word else next(rest, None)
        options += [word] if value is None else [word, value]
    return positional, options
