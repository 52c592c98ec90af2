"""Adapters on disk: which base they belong to, and the two put together, whole or not at all.

transformers loads an adapter by itself, but frozen, with random values where its file lacks some, and without those
that fit nowhere. Here such a file is refused.
"""

import copy
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model_state_dict
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from grao.engine.folder import check_model_folder, tensor_shapes
from grao.engine.sharded import named_weights
from grao.errors import InputError, one_line

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MODEL_FILES = "config.json", _CONFIG
_RUN_FILES = "manifest.json", "reward.json"
"""By which the folder of a run, or of a trained reward model, is known."""

LoadBase = Callable[[str], PreTrainedModel]
"""Folder or hub id -> model."""


@dataclass(frozen=True)
class Adapter:
    """An adapter in a folder or on the hub."""

    path: str
    base: str
    """Folder or hub id of the model that it was trained on, which may itself be an adapter."""
    config: PeftConfig

    @property
    def words(self) -> str:
        """What it is: `a LORA adapter (rank 8)`."""
        rank = getattr(self.config, "r", None)
        return f"a {PeftType(self.config.peft_type).value} adapter" + (f" (rank {rank})" if rank else "")

    def file(self, name: str) -> str | None:
        """A file of the adapter here, fetched from the hub where it lies there; None if there is none."""
        found = cached_file(self.path, name, _raise_exceptions_for_missing_entries=False)
        return found and str(found)


def model_folder(path: str) -> str:
    """The folder that holds a model: `path`, or in the folder of a run its `model`, or the one adapter inside.

    Raises:
        InputError: if there are several adapters inside, or the run is unfinished.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return path
    if any((folder / name).exists() for name in _MODEL_FILES):
        return str(folder)
    trained = any((folder / name).exists() for name in _RUN_FILES)
    if trained and any((folder / "model" / name).exists() for name in _MODEL_FILES):
        return str(folder / "model")
    inside = sorted(file.parent for file in folder.glob(f"*/{_CONFIG}"))
    if len(inside) > 1:
        raise InputError(f"model.path: {path!r} holds the adapters {', '.join(map(str, inside))}; name one of them")
    checkpoints = sorted(folder.glob("checkpoints/checkpoint-*"), key=lambda checkpoint: checkpoint.stat().st_mtime)
    if checkpoints:
        remedy = f"continue it with `grao train --resume {path}`, or name {str(checkpoints[-1])!r}"
        raise InputError(f"model.path: {path!r} is a run without a result; {remedy}")
    return str(inside[0]) if inside else str(folder)


def adapter_at(path: str) -> Adapter | None:
    """The adapter that a path names; None if it names a whole model, or nothing.

    Raises:
        InputError: if the folder holds a whole model too, or the adapter names no base or is of a kind that cannot be
            trained further.
    """
    path = model_folder(path)
    if Path(path, _CONFIG).exists():  # a whole model is looked at when it is loaded
        try:
            check_model_folder(Path(path))
        except InputError as error:
            raise InputError(f"model.path: {error}") from error
    try:
        if find_adapter_config_file(path) is None:
            return None
    except (OSError, ValueError):  # neither a folder nor a name for the hub: what loads the model will say so
        return None
    if any(Path(path).glob("model*.safetensors")):
        raise InputError(f"model.path: {path!r} holds both a model and an adapter; put the adapter into a folder alone")
    try:
        config = PeftConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"model.path: cannot read {_CONFIG} of {path!r}: {one_line(error)}") from error
    check_kind(config, f"model.path: {path!r}")
    return Adapter(path, _base_of(path, config.base_model_name_or_path), config)


def has_weights(path: str) -> bool:
    """Whether the weights of a model, and of an adapter's base, lie on this machine: nothing has to be fetched."""
    if adapter := adapter_at(path):
        return has_weights(adapter.base)
    names = "model.safetensors", "model.safetensors.index.json"
    quiet = {"local_files_only": True, "_raise_exceptions_for_missing_entries": False}
    folder = model_folder(path)
    return any(cached_file(folder, name, **quiet, _raise_exceptions_for_connection_errors=False) for name in names)


def check_kind(config: PeftConfig, name: str) -> None:
    """Raises: InputError for an adapter that adds tokens or keys in place of changing weights."""
    if config.is_prompt_learning or config.is_adaption_prompt:
        kind = PeftType(config.peft_type).value
        raise InputError(f"{name} is a {kind} adapter; only those that change weights are taken, such as LORA")


def _base_of(path: str, name: str | None) -> str:
    """The base as it is named, or, where that is a relative path, below a folder that the adapter lies in."""
    if not name or Path(name).resolve() == Path(path).resolve():
        raise InputError(
            f"model.path: {path!r} is an adapter that names no base model; set base_model_name_or_path in it"
        )
    above = Path(path).resolve().parents if Path(path).is_dir() else ()
    nearest = next((str(root / name) for root in (Path(), *above) if (root / name).is_dir()), name)
    parts, run = Path(name).parts, Path(path).resolve().parent
    if nearest == name and Path(name).is_absolute() and not Path(name).is_dir():  # moved with the run that holds both?
        inside = (run.joinpath(*parts[at:]) for at in range(1, len(parts) - 1))
        nearest = next((str(folder) for folder in inside if folder.is_dir()), name)
    if nearest == name and not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        remedy = f"put it back, or write where it is into base_model_name_or_path of {path}/{_CONFIG}"
        raise InputError(f"model.path: {path!r} is an adapter of {name!r}, which is not there; {remedy}")
    return nearest


def attached(adapter: Adapter, load: LoadBase, task: str | None = "CAUSAL_LM") -> PeftModel:
    """The adapter on its base, to be trained further.

    Args:
        adapter: from `adapter_at`.
        load: loads the base, which may be merged from an adapter itself.
        task: what the adapter must be for, in peft's words; None takes any.

    Raises:
        InputError: if the base cannot be loaded, the weights are missing or no safetensors, or the two do not fit.
    """
    kind = adapter.config.task_type
    if task and kind not in (task, None):
        raise InputError(f"model.path: {adapter.path!r} is an adapter for {kind}, not for a language model ({task})")
    try:
        base = load(adapter.base)
    except InputError as error:
        raise InputError(f"{error}; it is the base of the adapter {adapter.path!r}") from error
    problem = f"model.path: the adapter {adapter.path!r} does not fit {adapter.base!r}"
    shapes, config = _shapes(adapter), copy.copy(adapter.config)
    config.task_type = task  # another would wrap the base as what it is not
    try:
        _resize(base, shapes)
        with warnings.catch_warnings(action="ignore"):  # what is missing is an error below
            model = PeftModel.from_pretrained(base, adapter.path, config=config, is_trainable=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{problem}: {one_line(error)}") from error
    have, tuned = set(get_peft_model_state_dict(model, save_embedding_layers=False)), f".{model.base_model.prefix}"
    odd = (have - set(shapes)) | {name for name in set(shapes) - have if tuned in name}
    if odd:
        raise InputError(f"{problem}: {len(odd)} weights are in one of them only, such as {min(odd)}")
    return model


@contextmanager
def switched_off(model: PeftModel) -> Iterator[None]:
    """Within it, a model is its base alone. What is trained still counts as such: FSDP goes by it in its first pass."""
    weights = [weight for weight in named_weights(model).values() if weight.requires_grad]
    with model.disable_adapter():
        for weight in weights:
            weight.requires_grad_(True)
        yield


def merged(adapter: Adapter, load: LoadBase, task: str | None = "CAUSAL_LM") -> PreTrainedModel:
    """The base with the adapter in its weights, all of which can be trained. Its name is the adapter's.

    Raises:
        InputError: as `attached`, or if the adapter is of a kind that cannot be merged.
    """
    model: Any = attached(adapter, load, task)
    try:
        model = model.merge_and_unload()
    except (ValueError, AttributeError, NotImplementedError) as error:
        raise InputError(f"model.path: cannot merge {adapter.path!r} into its base: {one_line(error)}") from error
    layer, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if layer is not None and getattr(model.config, "tie_word_embeddings", False):
        model.config.tie_word_embeddings = torch.equal(layer.weight, embedding.weight)  # one of them was trained alone
    for weight in model.parameters():
        weight.requires_grad_(weight.is_floating_point())
    # What is trained on top belongs to both: a new adapter names this one as its base.
    model.name_or_path = model.config._name_or_path = absolute(adapter.path)
    whole: PreTrainedModel = model
    return whole


def absolute(path: str | None) -> str | None:
    """A folder by a path that holds in any other folder; a hub id as it is."""
    return str(Path(path).absolute()) if path and Path(path).is_dir() else path


def whole_weights(adapter: Adapter) -> set[str]:
    """Names of the base's weights that the adapter brings along as a whole, such as a new output layer."""
    return {name.removeprefix("base_model.model.") for name in _shapes(adapter)}


def _shapes(adapter: Adapter) -> dict[str, list[int]]:
    file = adapter.file(_WEIGHTS)
    if file is None:
        pickled = adapter.file("adapter_model.bin")
        why = "adapter_model.bin is a pickle, which is never read; save it as safetensors" if pickled else "restore it"
        raise InputError(f"model.path: the adapter {adapter.path!r} has no {_WEIGHTS}; {why}")
    try:
        return tensor_shapes(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"model.path: cannot read {file}: {one_line(error)}") from error


def _resize(base: PreTrainedModel, shapes: dict[str, list[int]]) -> None:
    """Gives the base the rows of an embedding that the adapter's file brings along, for tokens that were added."""
    embedding: Any = base.get_input_embeddings()
    name = next(name for name, module in base.named_modules() if module is embedding)
    rows = [
        shape[0] for key, shape in shapes.items() if re.search(rf"\b{re.escape(name)}\.(base_layer\.)?weight$", key)
    ]
    if rows and rows[0] != len(embedding.weight):
        base.resize_token_embeddings(rows[0], mean_resizing=False)
