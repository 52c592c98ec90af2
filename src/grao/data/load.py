"""From a data section to training and held-out examples: a local file, a hub id or rows in memory.

A prompt is on one side only, and which one does not depend on the order of rows. Every mistake is one `InputError`.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from datasets import DatasetDict, load_dataset
from datasets.exceptions import DatasetsError

from grao.config.recipe import ColumnsConfig, PromptsConfig, RowsConfig
from grao.data.formats import Loaded, column_examples, hh_examples
from grao.data.sources import Table, is_file_name, read_file
from grao.errors import InputError
from grao.types import Example, canonical


@dataclass(frozen=True)
class Split:
    """Training and held-out examples. No prompt is on both sides; each side keeps the order of its source."""

    train: list[Example]
    test: list[Example]
    skipped: dict[str, int] = field(default_factory=dict)
    """Reason -> rows that are on neither side."""


def load_examples(config: RowsConfig) -> Loaded:
    """The examples of `config.path`.

    Raises:
        InputError: naming file, row and column, for anything that is wrong in them; in format `hh` rows with known
            quirks are left out and counted instead.
    """
    path = config.path
    if is_file_name(path):
        return _examples(read_file(path, config.limit), config)
    try:
        dataset = load_dataset(path, config.subset, data_dir=config.folder, split=config.split)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: no such file, and the hub does not give it as a data set: {reason}") from error
    return _examples(Table.of(path, "row", enumerate(dataset, 1), config.limit), config)


def load_split(config: RowsConfig, seed: int) -> Split:
    """Training and held-out examples, with all rows counted that were left out.

    Held out are the rows of `config.test_path` (of a hub id: its split `test`), all of them, and prompts that
    occur there are taken out of the training data; without one, `config.held_out` prompts of `config.path`.

    Raises:
        InputError: as `load_examples` and `split_examples`.
    """
    loaded = load_examples(config)
    if config.test_path is None:
        return replace(split_examples(loaded.examples, config.held_out, seed), skipped=loaded.skipped)
    test = load_examples(replace(config, path=config.test_path, split="test"))
    split = separate(loaded.examples, test.examples)
    return replace(split, skipped=dict(Counter(loaded.skipped) + Counter(test.skipped) + Counter(split.skipped)))


def examples_from_dataset(dataset: Iterable[Mapping[str, Any]], config: PromptsConfig) -> list[Example]:
    """The examples of a `datasets.Dataset` or of a list of rows; where they come from in `config` is ignored.

    Raises:
        InputError: naming row and column, for anything that is wrong in them.
    """
    if isinstance(dataset, DatasetDict):
        raise InputError(f"the data set has the splits {', '.join(dataset)}; give one of them")
    return _examples(Table.of("the data set", "row", enumerate(dataset, 1), config.limit), config).examples


def split_examples(examples: Sequence[Example], held_out: int, seed: int) -> Split:
    """Keeps prompts away from training: those whose hash of (seed, prompt) is smallest.

    Args:
        examples: rows with the same prompt stay together.
        held_out: prompts of the test side, at most half of all prompts; 0 leaves it empty.
        seed: another seed, another choice.

    Raises:
        InputError: if there are fewer than two prompts to divide.
    """
    prompts = {example.id for example in examples}
    if len(prompts) < (2 if held_out else 1):
        raise InputError(
            f"data: {len(prompts)} different prompts are too few to hold {held_out} out; "
            "give more rows, a data.test_path, or data.held_out: 0"
        )
    ranked = sorted(prompts, key=lambda prompt: hashlib.sha256(f"{seed}:{prompt}".encode()).digest())
    chosen = set(ranked[: min(held_out, len(prompts) // 2)])
    train, test = ([example for example in examples if (example.id in chosen) == held] for held in (False, True))
    return Split(train, test)


def separate(train: Sequence[Example], test: Sequence[Example]) -> Split:
    """Two sources as they are, but prompts of the test data are taken out of the training data and counted.

    Raises:
        InputError: if nothing is left to train on.
    """
    prompts = {example.id for example in test}
    kept = [example for example in train if example.id not in prompts]
    if not kept:
        raise InputError("data.test_path: holds every prompt of data.path, so none is left to train on")
    shared = len(train) - len(kept)
    return Split(kept, list(test), {"prompt is in the test data too": shared} if shared else {})


def fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 (hex) over prompts and references in order: what a run was trained on."""
    lines = (canonical([example.prompt, example.reference]) + b"\n" for example in examples)
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _examples(table: Table, config: ColumnsConfig) -> Loaded:
    return hh_examples(table) if config.format == "hh" else column_examples(table, config)
