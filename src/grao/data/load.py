"""From a data section to examples: a local file, a hub id or rows in memory; all errors are one `InputError` line."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from datasets import DatasetDict, load_dataset
from datasets.exceptions import DatasetsError

from grao.config.recipe import DataConfig
from grao.data.columns import column_examples
from grao.data.example import Example, Loaded
from grao.data.hh import hh_examples
from grao.data.sources import Table, is_file_name, read_file, table
from grao.data.split import Split, separate, split_examples
from grao.errors import InputError


def load_examples(config: DataConfig) -> Loaded:
    """The examples of `config.path`.

    Raises:
        InputError: naming file, row and column, for anything that is wrong in them; in format `hh` rows with known
            quirks are left out and counted instead.
    """
    return _examples(_table(config.path, config, config.split), config)


def load_split(config: DataConfig, seed: int) -> Split:
    """Training and held-out examples, with all rows counted that were left out.

    Held out are the rows of `config.test_path` (of a hub id: its split `test`), all of them, and prompts that
    occur there are taken out of the training data; without one, `config.held_out` prompts of `config.path`.

    Raises:
        InputError: as `load_examples` and `split_examples`.
    """
    loaded = load_examples(config)
    if config.test_path is None:
        split = split_examples(loaded.examples, config.held_out, seed)
        return Split(split.train, split.test, loaded.skipped)
    test = _examples(_table(config.test_path, config, "test"), config)
    split = separate(loaded.examples, test.examples)
    skipped = Counter(loaded.skipped) + Counter(test.skipped) + Counter(split.skipped)
    return Split(split.train, split.test, dict(skipped))


def examples_from_dataset(dataset: Iterable[Mapping[str, Any]], config: DataConfig) -> list[Example]:
    """The examples of a `datasets.Dataset` or of a list of rows; where they come from in `config` is ignored.

    Raises:
        InputError: naming row and column, for anything that is wrong in them.
    """
    if isinstance(dataset, DatasetDict):
        raise InputError(f"the data set has the splits {', '.join(dataset)}; give one of them")
    return _examples(table("the data set", "row", enumerate(dataset, 1), config.limit), config).examples


def _examples(rows: Table, config: DataConfig) -> Loaded:
    if config.format == "hh":
        return hh_examples(rows)
    return Loaded(column_examples(rows, config), {})


def _table(path: str, config: DataConfig, split: str) -> Table:
    if is_file_name(path):
        return read_file(path, config.limit)
    try:
        dataset = load_dataset(path, config.subset, data_dir=config.folder, split=split)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: no such file, and the hub does not give it as a data set: {reason}") from error
    return table(path, "row", enumerate(dataset, 1), config.limit)
