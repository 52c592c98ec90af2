"""From a data section to training and held-out examples: local files, a hub id or rows in memory.

A prompt is on one side only, and which one does not depend on the order of rows. Every mistake is one `InputError`.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, cast

from datasets import load_dataset
from datasets.exceptions import DatasetsError

from grao.config.recipe import ColumnsConfig, PromptsConfig, RowsConfig
from grao.data.formats import Loaded, column_examples, hh_examples
from grao.data.rows import Row, Table, reason, shown
from grao.data.sources import is_local, read_path
from grao.errors import InputError
from grao.types import Example, canonical

_UNREADABLE = (DatasetsError, OSError, ValueError, OverflowError, RuntimeError, ImportError, LookupError, TypeError)
"""What `datasets` raises where a data set is not to be had, broken, or holds what Python cannot."""


@dataclass(frozen=True)
class Split:
    """Training and held-out examples. No prompt is on both sides; each side keeps the order of its source."""

    train: list[Example]
    test: list[Example]
    skipped: dict[str, int] = field(default_factory=dict)
    """Reason -> rows that are on neither side."""


def load_examples(config: RowsConfig, table: Table | None = None) -> Loaded:
    """The examples of `config.path`, whose rows may have been read already (`load_table`).

    Raises:
        InputError: naming file, row and column, for anything that is wrong in them; in format `hh` rows with known
            quirks are left out and counted instead.
    """
    return _examples(table or load_table(config), config)


def load_table(config: RowsConfig) -> Table:
    """The rows of `config.path` as they are.

    Raises:
        InputError: if they cannot be read.
    """
    path = config.path
    if is_local(path):
        return read_path(path, config.split, config.limit)
    try:
        dataset = load_dataset(path, config.subset, data_dir=config.folder, split=config.split)
    except _UNREADABLE as error:
        problem = "no such file, and the hub does not give it as a data set"
        raise InputError(f"{shown(path)}: {problem}: {reason(error)}") from error
    return Table.of(path, _numbered(path, dataset), config.limit)


def load_split(config: RowsConfig, seed: int, table: Table | None = None) -> Split:
    """Training and held-out examples, with all rows counted that were left out.

    Held out are the rows of `config.test_path` (of a hub id: its split `test`), all of them, and prompts that
    occur there are taken out of the training data; without one, `config.held_out` prompts of `config.path`.

    Raises:
        InputError: as `load_examples` and `split_examples`.
    """
    loaded = load_examples(config, table)
    if config.test_path is None:
        return replace(split_examples(loaded.examples, config.held_out, seed), skipped=loaded.skipped)
    test = load_examples(replace(config, path=config.test_path, split="test"))
    split = separate(loaded.examples, test.examples)
    return replace(split, skipped=dict(Counter(loaded.skipped) + Counter(test.skipped) + Counter(split.skipped)))


def examples_from_dataset(dataset: Iterable[Mapping[str, Any] | Example], config: PromptsConfig) -> list[Example]:
    """The examples of rows in memory; where they come from in `config` is ignored.

    Args:
        dataset: a `datasets.Dataset` or `IterableDataset`, a data frame, an iterable of rows, a mapping of columns to
            lists, or an iterable of Examples, which stay as they are.
        config: the columns, and how many rows are taken.

    Raises:
        InputError: naming row and column, for anything that is wrong in them.
    """
    rows: list[Row] = list(islice(_numbered("the data set", _rows(dataset)), config.limit))
    examples: list[Example] = [row.values for row in rows if isinstance(row.values, Example)]
    if examples and len(examples) == len(rows):
        return examples
    return _examples(Table.of("the data set", rows, None), config).examples


def split_examples(examples: Sequence[Example], held_out: int, seed: int) -> Split:
    """Keeps prompts away from training: those whose hash of (seed, prompt) is smallest.

    Args:
        examples: rows with the same prompt, or one that differs in white space alone, stay together.
        held_out: prompts of the test side, at most half of all prompts; 0 leaves it empty.
        seed: another seed, another choice.

    Raises:
        InputError: if there are fewer than two prompts to divide.
    """
    prompts: dict[str, str] = {}
    for example in examples:
        words = _words(example)
        prompts[words] = min(example.id, prompts.get(words, example.id))
    if len(prompts) < (2 if held_out else 1):
        raise InputError(
            f"data: {len(prompts)} different prompts are too few to hold {held_out} out; "
            "give more rows, a data.test_path, or data.held_out: 0"
        )
    ranked = sorted(prompts, key=lambda words: hashlib.sha256(f"{seed}:{prompts[words]}".encode()).digest())
    chosen = set(ranked[: min(held_out, len(prompts) // 2)])
    train, test = ([example for example in examples if (_words(example) in chosen) == held] for held in (False, True))
    return Split(train, test)


def separate(train: Sequence[Example], test: Sequence[Example]) -> Split:
    """Two sources as they are, but prompts of the test data are taken out of the training data and counted.

    Raises:
        InputError: if nothing is left to train on.
    """
    prompts = set(map(_words, test))
    kept = [example for example in train if _words(example) not in prompts]
    if not kept:
        raise InputError("data.test_path: holds every prompt of data.path, so none is left to train on")
    shared = len(train) - len(kept)
    return Split(kept, list(test), {"prompt is in the test data too": shared} if shared else {})


def fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 (hex) over prompts and references in order: what a run was trained on."""
    lines = (canonical([example.prompt, example.reference]) + b"\n" for example in examples)
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _words(example: Example) -> str:
    """The prompt without white space."""
    return re.sub(r"\\[nrt]|\s", "", canonical(example.prompt).decode())


def _examples(table: Table, config: ColumnsConfig) -> Loaded:
    loaded = hh_examples(table) if config.format == "hh" else column_examples(table, config)
    if not config.columns:
        return loaded
    names = dict.fromkeys(name for example in loaded.examples for name in example.columns)
    for old, new in config.columns.items():
        if old not in names:
            known = ", ".join(map(repr, names)) or "none"
            raise InputError(f"data.columns: {table.source} has no further column {old!r}, only {known}")
        if new in names.keys() - config.columns.keys() or list(config.columns.values()).count(new) > 1:
            raise InputError(f"data.columns: {old}: {table.source} would have two columns {new!r}; choose another name")

    def renamed(columns: Mapping[str, Any]) -> dict[str, Any]:
        return {config.columns.get(name, name): value for name, value in columns.items()}

    return replace(loaded, examples=[replace(each, columns=renamed(each.columns)) for each in loaded.examples])


def _rows(dataset: Any) -> Iterable[Any]:
    """The rows, one by one, of whatever holds some."""
    if isinstance(dataset, Mapping):
        if not all(isinstance(column, list | tuple) or hasattr(column, "tolist") for column in dataset.values()):
            names = ", ".join(map(str, dataset))[:200]
            raise InputError(f"the data set has the splits {names}; give one of them, or a list of rows")
        if len(set(map(len, dataset.values()))) > 1:
            lengths = ", ".join(f"{name!r} {len(column)}" for name, column in dataset.items())
            raise InputError(f"the data set: its columns differ in length: {lengths[:200]}")
        return (dict(zip(dataset, cells, strict=True)) for cells in zip(*dataset.values(), strict=True))
    if hasattr(dataset, "iloc") and hasattr(dataset, "to_dict"):  # a data frame of pandas
        return cast(list[Any], dataset.to_dict("records"))
    if whole := getattr(dataset, "to_pylist", None) or getattr(dataset, "to_dicts", None):  # of pyarrow or polars
        return cast(list[Any], whole())
    if isinstance(dataset, str) or not isinstance(dataset, Iterable):
        advice = "give a data set, or a list of rows such as {'prompt': ..., 'reference': ...}"
        raise InputError(f"the data set: is a {type(dataset).__name__}; {advice}")
    return dataset


def _numbered(source: str, rows: Iterable[Any]) -> Iterator[Row]:
    """The rows with their place.

    Raises:
        InputError: for a row that cannot be read.
    """
    number = 0
    try:
        for number, row in enumerate(rows, 1):
            yield Row(source, "row", number, row)
    except _UNREADABLE as error:
        raise InputError(f"{source}, row {number + 1}: cannot be read: {reason(error)}") from error
