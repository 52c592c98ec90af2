"""Load training and held-out examples from local files, a hub id or rows in memory.

No prompt is in both, and the split does not depend on the order of rows. Every fault raises one `InputError`.
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
"""Exceptions of `datasets` about a data set that is unavailable, broken, or has values that Python cannot represent."""


@dataclass(frozen=True)
class Split:
    """Training and held-out examples. No prompt is on both sides; each side keeps the order of its source."""

    train: list[Example]
    test: list[Example]
    skipped: dict[str, int] = field(default_factory=dict)
    """{reason: number of rows that are on neither side}."""


def load_examples(config: RowsConfig, table: Table | None = None) -> Loaded:
    """Load the examples of `config.path`.

    Args:
        config: the data section.
        table: its rows, if `load_table` has read them already.

    Raises:
        InputError: if a row is unreadable; the message names file, row and column. In format `hh`, rows with known
            quirks are skipped and counted instead.
    """
    return _examples(table or load_table(config), config)


def load_table(config: RowsConfig) -> Table:
    """Read the raw rows of `config.path`.

    Raises:
        InputError: if they cannot be read.
    """
    path = config.path
    if is_local(path):
        return read_path(path, config.split, config.limit)
    try:
        dataset = load_dataset(path, config.subset, data_dir=config.folder, split=config.split)
    except _UNREADABLE as error:
        problem = "no such file, and it cannot be loaded from the hub"
        raise InputError(f"{shown(path)}: {problem}: {reason(error)}") from error
    return Table.of(path, _numbered(path, dataset), config.limit)


def load_split(config: RowsConfig, seed: int, table: Table | None = None) -> Split:
    """Load training and held-out examples, and count the skipped rows.

    With `config.test_path`, all its rows are held out (of a hub id: its split `test`), and their prompts are removed
    from the training data. Otherwise `config.held_out` prompts of `config.path` are held out.

    Args:
        config: the data section.
        seed: of the split.
        table: rows of `config.path`, if `load_table` has read them already.

    Raises:
        InputError: as `load_examples`, `split_examples` and `drop_shared_prompts`.
    """
    loaded = load_examples(config, table)
    if config.test_path is None:
        return replace(split_examples(loaded.examples, config.held_out, seed), skipped=loaded.skipped)
    test = load_examples(replace(config, path=config.test_path, split="test"))
    split = drop_shared_prompts(loaded.examples, test.examples)
    return replace(split, skipped=dict(Counter(loaded.skipped) + Counter(test.skipped) + Counter(split.skipped)))


def examples_from_dataset(dataset: Iterable[Mapping[str, Any] | Example], config: PromptsConfig) -> list[Example]:
    """Convert rows in memory to examples.

    Args:
        dataset: a `datasets.Dataset` or `IterableDataset`, a data frame, an iterable of rows, a mapping of columns to
            lists, or an iterable of Examples, which are returned unchanged.
        config: names of the columns and the maximum number of rows; its `path` is not used.

    Raises:
        InputError: if a row is unreadable; the message names row and column.
    """
    rows: list[Row] = list(islice(_numbered("the data set", _rows(dataset)), config.limit))
    examples: list[Example] = [row.values for row in rows if isinstance(row.values, Example)]
    if examples and len(examples) == len(rows):
        return examples
    return _examples(Table.of("the data set", rows, None), config).examples


def split_examples(examples: Sequence[Example], held_out: int, seed: int) -> Split:
    """Hold out the prompts with the smallest hash of (seed, prompt).

    Args:
        examples: rows whose prompts are equal, or differ in white space alone, stay together.
        held_out: number of prompts to hold out, capped at half of all prompts; 0 holds none out.
        seed: determines the choice.

    Raises:
        InputError: if there are fewer than two different prompts, or none where `held_out` is 0.
    """
    prompts: dict[str, str] = {}
    for example in examples:
        words = _words(example)
        prompts[words] = min(example.id, prompts.get(words, example.id))
    if len(prompts) < (2 if held_out else 1):
        raise InputError(
            f"data: too few different prompts ({len(prompts)}) to hold out {held_out}; "
            "add rows, or set data.test_path or data.held_out: 0"
        )
    ranked = sorted(prompts, key=lambda words: hashlib.sha256(f"{seed}:{prompts[words]}".encode()).digest())
    chosen = set(ranked[: min(held_out, len(prompts) // 2)])
    train, test = ([example for example in examples if (_words(example) in chosen) == held] for held in (False, True))
    return Split(train, test)


def drop_shared_prompts(train: Sequence[Example], test: Sequence[Example]) -> Split:
    """Remove the prompts of the test data from the training data, and count the removed rows.

    Raises:
        InputError: if no training data are left.
    """
    prompts = set(map(_words, test))
    remaining = [example for example in train if _words(example) not in prompts]
    if not remaining:
        raise InputError("data.test_path: contains every prompt of data.path, so no training data are left")
    shared = len(train) - len(remaining)
    return Split(remaining, list(test), {"prompt is in the test data too": shared} if shared else {})


def fingerprint(examples: Iterable[Example]) -> str:
    """Return the SHA-256 (hex) of all prompts and references in order, which identifies the data of a run."""
    lines = (canonical([example.prompt, example.reference]) + b"\n" for example in examples)
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _words(example: Example) -> str:
    """Return the prompt without white space."""
    return re.sub(r"\\[nrt]|\s", "", canonical(example.prompt).decode())


def _examples(table: Table, config: ColumnsConfig) -> Loaded:
    loaded = hh_examples(table) if config.format == "hh" else column_examples(table, config)
    if not config.columns:
        return loaded
    names = dict.fromkeys(name for example in loaded.examples for name in example.columns)
    for old, new in config.columns.items():
        if old not in names:
            known = ", ".join(map(repr, names)) or "none"
            raise InputError(f"data.columns: {table.source} has no other column {old!r}; its other columns are {known}")
        if new in names.keys() - config.columns.keys() or list(config.columns.values()).count(new) > 1:
            raise InputError(f"data.columns: {old}: {table.source} would have two columns {new!r}; choose another name")

    def renamed(columns: Mapping[str, Any]) -> dict[str, Any]:
        return {config.columns.get(name, name): value for name, value in columns.items()}

    return replace(loaded, examples=[replace(item, columns=renamed(item.columns)) for item in loaded.examples])


def _rows(dataset: Any) -> Iterable[Any]:
    """Return an iterable over the rows of any supported container."""
    if isinstance(dataset, Mapping):
        if not all(isinstance(column, list | tuple) or hasattr(column, "tolist") for column in dataset.values()):
            names = ", ".join(map(str, dataset))[:200]
            raise InputError(f"the data set has the splits {names}; pass one of them, or a list of rows")
        if len(set(map(len, dataset.values()))) > 1:
            lengths = ", ".join(f"{name!r} {len(column)}" for name, column in dataset.items())
            raise InputError(f"the data set: its columns differ in length: {lengths[:200]}; give all the same length")
        return (dict(zip(dataset, cells, strict=True)) for cells in zip(*dataset.values(), strict=True))
    if hasattr(dataset, "iloc") and hasattr(dataset, "to_dict"):  # pandas
        return cast(list[Any], dataset.to_dict("records"))
    if to_rows := getattr(dataset, "to_pylist", None) or getattr(dataset, "to_dicts", None):  # pyarrow or polars
        return cast(list[Any], to_rows())
    if isinstance(dataset, str) or not isinstance(dataset, Iterable):
        advice = "a data set, or a list of rows such as {'prompt': ..., 'reference': ...}"
        raise InputError(f"the data set: must be {advice}, got {type(dataset).__name__}")
    return dataset


def _numbered(source: str, rows: Iterable[Any]) -> Iterator[Row]:
    """Yield the rows with their positions.

    Raises:
        InputError: if a row cannot be read.
    """
    number = 0
    try:
        for number, row in enumerate(rows, 1):
            yield Row(source, "row", number, row)
    except _UNREADABLE as error:
        raise InputError(f"{source}, row {number + 1}: cannot be read: {reason(error)}") from error
