"""What determines the result of a run: its settings, and the content of the files that they name.

An interrupted run is resumed only if these are unchanged. For a reward function, its file is compared; for a model's
folder, the small files and a sample of the large ones. Changes in what such a file imports are not detected.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from grao.config.arms import flattened
from grao.config.recipe import Recipe
from grao.config.schema import ADAPTER, field_facts, general
from grao.engine.adapters import model_folder
from grao.rewards.judge.server import ledger_path
from grao.rewards.judge.wording import CRITERIA

_FILES = (
    *("model.path", "data.path", "data.test_path", "judge.local.path", "judge.criterion", "rule.embedding.model"),
    *("rewards.function", "reward.function", "second.function"),
)
"""Suffixes of the fields that may name a local file or folder."""
_FREE = (
    *("output", "data.path", "data.test_path", "rollout.batch_size", "training.token_budget", "training.steps"),
    *("training.save_every", "training.save_async", "training.max_bad_steps", "training.sample_every"),
    *("audit", "evaluation.confidence", "rollout.vllm.server", "rollout.vllm.folder"),
)
"""Fields that may change before a resume, or that are checked elsewhere: data by content, steps by the steps done."""
_FREE_ENDS = (
    *("concurrency", "rate_limit", "timeout", "retries", "patience", "ledger", "replay", "max_cost", "price_input"),
    *("price_output", "api_key_env", "base_url", "local.batch_size", "model.token_budget"),
)
"""The same for judges and reward models: how they are asked, and what that may cost."""
_FREE_TRAINER = ("save_", "logging_", "report_to", "run_name", "push_to_hub", "hub_", "disable_tqdm", "dataloader_")
"""Prefixes of the fields of transformers.TrainingArguments that do not affect results."""
_MODELS = ("model.path", "judge.local.path", "embedding.model")
_DIGEST = re.compile(" [0-9a-f]{16}$")
_SAMPLE = 1 << 20
"""Bytes read at both ends of a large file."""


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """Return the recipe as a run stores it, with absolute paths, so that it can be resumed from any working directory.

    Paths inside the run's folder are relative to it (`load_config` looks beside a run's recipe first), so that a
    self-contained folder works wherever it is copied.
    """
    values = ADAPTER.dump_python(recipe, mode="json", by_alias=True)
    return ADAPTER.validate_json(json.dumps(_absolute(values, "", recipe.output)), by_alias=True)


def _absolute(value: Any, field: str, output: Path) -> Any:
    """Return the value of a field or section with absolute paths of local files; other names may be hub ids."""
    if isinstance(value, dict):
        return {name: _absolute(item, f"{field}.{name}", output) for name, item in value.items()}
    if isinstance(value, list):
        return [_absolute(entry, field, output) for entry in value]
    if field.endswith(".judge.ledger"):
        return str(ledger_path(value and Path(value), output).absolute())
    if not isinstance(value, str) or not field.endswith(_FILES) or (field.endswith(".criterion") and value in CRITERIA):
        return value
    file, colon, name = value.rpartition(":") if field.endswith(".function") else (value, "", "")
    path, run = Path(file).expanduser().absolute(), output.absolute()
    stored = path.relative_to(run).as_posix() if path != run and path.is_relative_to(run) else path
    return f"{stored}{colon}{name}" if path.exists() and (not colon or path.suffix == ".py") else value


def deciding_settings(recipe: Recipe) -> dict[str, Any]:
    """Return {dotted field: value}, with a digest instead of the path of a local file or model folder.

    Args:
        recipe: of a prepared run, so that the modules of its rewards are loaded.
    """
    fields = flattened(ADAPTER.dump_python(recipe, mode="json", by_alias=True), lists=True)
    return {name: _content(name, value) for name, value in fields if not _may_change(name) and value != []}


def first_change(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> str | None:
    """Return the first change, in words: `training.learning_rate has changed from 0.01 to 0.02`; None if there is none.

    A field that is missing on one side counts as its default there.
    """
    for name in filter(lambda name: not _may_change(name), dict.fromkeys((*current, *recorded))):
        facts = field_facts(Recipe).get(general(tuple(name.split("."))))
        default = facts.default if facts else None
        values = recorded.get(name, default), current.get(name, default)
        if values[0] != values[1]:
            before, after = (_DIGEST.sub("", value) if isinstance(value, str) else value for value in values)
            same = before == after  # same name, other content
            return f"{name}: {after} has changed" if same else f"{name} has changed from {before!r} to {after!r}"
    return None


def _content(name: str, value: Any) -> Any:
    """Return the value of a field; for a path, a digest of the content; for a function, also its name."""
    if not isinstance(value, str):
        return value
    if name.rpartition(".")[2] == "function":
        file, _, function = value.rpartition(":")
        path = Path(getattr(sys.modules.get(file), "__file__", None) or file)
        return f"{path.name}:{function} {digest([path])}" if path.suffix == ".py" and path.is_file() else value
    path = Path(value).expanduser()
    if name.endswith(_MODELS) and path.is_dir():
        path = Path(model_folder(value))
        files = sorted(file for file in path.iterdir() if file.suffix in (".json", ".jinja", ".safetensors"))
        return f"the folder {_sampled_digest(files)}"
    return f"the file {digest([path])}" if name.endswith(".criterion") and path.is_file() else value


def digest(files: Iterable[Path]) -> str:
    """Return 16 hex digits that identify the content of files."""
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]


def _sampled_digest(files: Iterable[Path]) -> str:
    """Return 16 hex digits of names, sizes and both ends of files, which suffice: training changes all weights."""
    total = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        total.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            total.update(stream.read(_SAMPLE))
            stream.seek(max(size - _SAMPLE, 0))
            total.update(stream.read(_SAMPLE))
    return total.hexdigest()[:16]


def _may_change(name: str) -> bool:
    if name.startswith("training.trainer"):
        return name == "training.trainer" or name.removeprefix("training.trainer.").startswith(_FREE_TRAINER)
    return name.endswith(_FREE_ENDS) or any(f"{name}.".startswith(f"{field}.") for field in _FREE)
