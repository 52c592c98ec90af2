"""What decides the result of a run: its settings, where they point to, and the content of the files that they name.

An interrupted run goes on only if these are still as they were when it began. Of a reward function the file counts that
holds it, of a model's folder the small files and a sample of the large ones. Not seen: what such a file imports.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from grao.config.arms import dotted
from grao.config.recipe import Recipe
from grao.config.schema import ADAPTER, field_facts, general
from grao.engine.adapters import model_folder
from grao.rewards.judge.server import ledger_path
from grao.rewards.judge.wording import CRITERIA

_FILES = (
    *("model.path", "data.path", "data.test_path", "judge.local.path", "judge.criterion", "rule.embedding.model"),
    *("rewards.function", "reward.function", "second.function"),
)
"""Ends of the fields that may name a file or folder here."""
_FREE = (
    *("output", "data.path", "data.test_path", "rollout.batch_size", "training.token_budget", "training.steps"),
    *("training.save_every", "training.save_async", "training.max_bad_steps", "training.sample_every"),
    *("audit", "evaluation.confidence", "rollout.vllm.server", "rollout.vllm.folder"),
)
"""Fields that may change before a resume, or that other checks hold: data are compared by their content, steps with
what is done."""
_FREE_ENDS = (
    *("concurrency", "rate_limit", "timeout", "retries", "patience", "ledger", "replay", "max_cost", "price_input"),
    *("price_output", "api_key_env", "base_url", "local.batch_size", "model.token_budget"),
)
"""Of judges and reward models: how they are asked and what that may cost."""
_FREE_TRAINER = ("save_", "logging_", "report_to", "run_name", "push_to_hub", "hub_", "disable_tqdm", "dataloader_")
"""Beginnings of the fields of transformers.TrainingArguments that change no result."""
_MODELS = ("model.path", "judge.local.path", "embedding.model")
_DIGEST = re.compile(" [0-9a-f]{16}$")
_SAMPLE = 1 << 20
"""Bytes that are read at either end of a large file."""


def anchored(recipe: Recipe) -> Recipe:
    """The recipe as a run keeps it, so that it can be resumed from any folder: with absolute paths to what lies here.

    What lies in the run's own folder is named from there (`load_config` looks beside a run's recipe first), so that a
    folder that holds all it needs works wherever it is copied.
    """
    values = ADAPTER.dump_python(recipe, mode="json", by_alias=True)
    return ADAPTER.validate_json(json.dumps(_absolute(values, "", recipe.output)), by_alias=True)


def _absolute(value: Any, field: str, output: Path) -> Any:
    """The value of a field, or of all below it, with absolute paths to what lies here; all else may be a hub id."""
    if isinstance(value, dict):
        return {name: _absolute(inside, f"{field}.{name}", output) for name, inside in value.items()}
    if isinstance(value, list):
        return [_absolute(entry, field, output) for entry in value]
    if field.endswith(".judge.ledger"):
        return str(ledger_path(value and Path(value), output).absolute())
    if not isinstance(value, str) or not field.endswith(_FILES) or (field.endswith(".criterion") and value in CRITERIA):
        return value
    file, colon, name = value.rpartition(":") if field.endswith(".function") else (value, "", "")
    here, own = Path(file).expanduser().absolute(), output.absolute()
    kept = here.relative_to(own).as_posix() if here != own and here.is_relative_to(own) else here
    return f"{kept}{colon}{name}" if here.exists() and (not colon or here.suffix == ".py") else value


def decisive(recipe: Recipe) -> dict[str, Any]:
    """Dotted field -> value, with a digest in place of a file or model folder here; paths may differ.

    Args:
        recipe: of a run that is prepared, so that the modules of its rewards are loaded.
    """
    fields = dotted(ADAPTER.dump_python(recipe, mode="json", by_alias=True), lists=True)
    return {name: _content(name, value) for name, value in fields if not _free(name) and value != []}


def changed(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> str | None:
    """What has changed, in words: `training.learning_rate has changed from 0.01 to 0.02`; None if nothing has.

    A field that only one of the two knows counts as its default in the other.
    """
    for name in filter(lambda name: not _free(name), dict.fromkeys((*current, *recorded))):
        facts = field_facts(Recipe).get(general(tuple(name.split("."))))
        default = facts.default if facts else None
        then, now = recorded.get(name, default), current.get(name, default)
        if then != now:
            before, after = (_DIGEST.sub("", value) if isinstance(value, str) else value for value in (then, now))
            same = before == after  # another content under the same name
            return f"{name}: {after} has changed" if same else f"{name} has changed from {before!r} to {after!r}"
    return None


def _content(name: str, value: Any) -> Any:
    """The value of a field; a digest of what lies there in place of a path, after the name of a function."""
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
        return f"the folder {_sampled(files)}"
    return f"the file {digest([path])}" if name.endswith(".criterion") and path.is_file() else value


def digest(files: Iterable[Path]) -> str:
    """16 hex digits of the content of files."""
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()[:16]


def _sampled(files: Iterable[Path]) -> str:
    """16 hex digits of names, sizes, and both ends of files: a model that was trained on differs everywhere."""
    whole = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        whole.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            whole.update(stream.read(_SAMPLE))
            stream.seek(max(size - _SAMPLE, 0))
            whole.update(stream.read(_SAMPLE))
    return whole.hexdigest()[:16]


def _free(name: str) -> bool:
    if name.startswith("training.trainer"):
        return name == "training.trainer" or name.removeprefix("training.trainer.").startswith(_FREE_TRAINER)
    return name.endswith(_FREE_ENDS) or any(f"{name}.".startswith(f"{field}.") for field in _FREE)
