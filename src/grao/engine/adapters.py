"""Adapters on disk: find their base model, and load both together with strict checks.

transformers can load an adapter by itself, but it freezes the adapter, fills weights missing from the file with random
values, and drops weights that do not fit. Here a file that lacks weights or has others is an error.
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
"""Files that mark the folder of a run or of a trained reward model."""

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
    def description(self) -> str:
        """Short description for messages, such as `a LORA adapter (rank 8)`."""
        rank = getattr(self.config, "r", None)
        return f"a {PeftType(self.config.peft_type).value} adapter" + (f" (rank {rank})" if rank else "")

    def file(self, name: str) -> str | None:
        """Return the local path of one of the adapter's files, downloaded if need be; None if there is none."""
        local_path = cached_file(self.path, name, _raise_exceptions_for_missing_entries=False)
        return local_path and str(local_path)


def model_folder(path: str) -> str:
    """Return the folder that holds the model.

    This is `path` itself, the `model` folder inside a run's folder, or the only adapter inside. Anything that is not a
    local folder, such as a hub id, is returned as it is.

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
        raise InputError(f"model.path: the run in {path!r} is unfinished and has no model yet; {remedy}")
    return str(inside[0]) if inside else str(folder)


def adapter_at(path: str) -> Adapter | None:
    """Return the adapter at a path; None if there is a full model, or nothing.

    Raises:
        InputError: if the folder holds a full model too, or the adapter names no base model or is of an unsupported
            kind.
    """
    path = model_folder(path)
    if Path(path, _CONFIG).exists():  # the folder of a full model is checked when it is loaded
        try:
            check_model_folder(Path(path))
        except InputError as error:
            raise InputError(f"model.path: {error}") from error
    try:
        if find_adapter_config_file(path) is None:
            return None
    except (OSError, ValueError):  # neither a folder nor a hub id: loading the model will report it
        return None
    if any(Path(path).glob("model*.safetensors")):
        raise InputError(
            f"model.path: {path!r} holds both a model and an adapter; move the adapter to a folder of its own"
        )
    try:
        config = PeftConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"model.path: cannot read {_CONFIG} of {path!r}: {one_line(error)}") from error
    check_kind(config, f"model.path: {path!r}")
    return Adapter(path, _base_of(path, config.base_model_name_or_path), config)


def has_weights(path: str) -> bool:
    """Whether the weights of a model, or of an adapter's base, are on this machine, so that nothing is downloaded."""
    if adapter := adapter_at(path):
        return has_weights(adapter.base)
    names = "model.safetensors", "model.safetensors.index.json"
    quiet = {"local_files_only": True, "_raise_exceptions_for_missing_entries": False}
    folder = model_folder(path)
    return any(cached_file(folder, name, **quiet, _raise_exceptions_for_connection_errors=False) for name in names)


def check_kind(config: PeftConfig, name: str) -> None:
    """Check that an adapter changes weights, rather than adding virtual tokens.

    Args:
        config: of the adapter.
        name: begins the message.

    Raises:
        InputError: for prompt tuning, prefix tuning and the like.
    """
    if config.is_prompt_learning or config.is_adaption_prompt:
        kind = PeftType(config.peft_type).value
        raise InputError(f"{name} is a {kind} adapter; only adapters that change weights, such as LORA, are supported")


def _base_of(path: str, name: str | None) -> str:
    """Return the base model's folder or hub id.

    A relative path is tried from the working directory and from every folder above the adapter. An absolute path that
    no longer exists is tried inside the adapter's parent folder, in case both were moved together.
    """
    if not name or Path(name).resolve() == Path(path).resolve():
        raise InputError(
            f"model.path: {path!r} is an adapter that names no base model; set base_model_name_or_path in its {_CONFIG}"
        )
    above = Path(path).resolve().parents if Path(path).is_dir() else ()
    base = next((str(root / name) for root in (Path(), *above) if (root / name).is_dir()), name)
    parts, run = Path(name).parts, Path(path).resolve().parent
    if base == name and Path(name).is_absolute() and not Path(name).is_dir():
        inside = (run.joinpath(*parts[start:]) for start in range(1, len(parts) - 1))
        base = next((str(folder) for folder in inside if folder.is_dir()), name)
    if base == name and not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        remedy = f"restore it, or set base_model_name_or_path in {path}/{_CONFIG} to its new location"
        raise InputError(f"model.path: {path!r} is an adapter of {name!r}, which does not exist; {remedy}")
    return base


def attach_adapter(adapter: Adapter, load: LoadBase, task: str | None = "CAUSAL_LM") -> PeftModel:
    """Load the base model and attach the trainable adapter.

    Args:
        adapter: from `adapter_at`.
        load: loads the base, which may itself be an adapter merged into its own base.
        task: peft's task type that the adapter must have; None allows any.

    Raises:
        InputError: if the base cannot be loaded, the adapter's weights are missing or not safetensors, or the two do
            not fit.
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
    config.task_type = task  # another task type would make peft wrap the base in the wrong class
    try:
        _resize_embedding(base, shapes)
        with warnings.catch_warnings(action="ignore"):  # missing weights are an error below
            model = PeftModel.from_pretrained(base, adapter.path, config=config, is_trainable=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(f"{problem}: {one_line(error)}") from error
    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    prefix = f".{model.base_model.prefix}"
    unmatched = (expected - set(shapes)) | {name for name in set(shapes) - expected if prefix in name}
    if unmatched:
        raise InputError(f"{problem}: {len(unmatched)} weights are in only one of the two, such as {min(unmatched)}")
    return model


@contextmanager
def adapter_disabled(model: PeftModel) -> Iterator[None]:
    """Run the base model alone inside the context.

    peft freezes the adapter meanwhile; here it stays trainable, because FSDP reads `requires_grad` in its first forward
    pass, which may be this one.
    """
    weights = [weight for weight in named_weights(model).values() if weight.requires_grad]
    with model.disable_adapter():
        for weight in weights:
            weight.requires_grad_(True)
        yield


def load_merged(adapter: Adapter, load: LoadBase, task: str | None = "CAUSAL_LM") -> PreTrainedModel:
    """Load the base model and merge the adapter into its weights, all of which become trainable.

    Args:
        adapter: as in `attach_adapter`.
        load: as in `attach_adapter`.
        task: as in `attach_adapter`.

    Returns:
        The merged model; its `name_or_path` is the adapter's.

    Raises:
        InputError: as `attach_adapter`, or if the adapter is of a kind that cannot be merged.
    """
    model: Any = attach_adapter(adapter, load, task)
    try:
        model = model.merge_and_unload()
    except (ValueError, AttributeError, NotImplementedError) as error:
        raise InputError(f"model.path: cannot merge {adapter.path!r} into its base: {one_line(error)}") from error
    layer, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if layer is not None and getattr(model.config, "tie_word_embeddings", False):
        # The adapter may have trained only one of the two, which unties them.
        model.config.tie_word_embeddings = torch.equal(layer.weight, embedding.weight)
    for weight in model.parameters():
        weight.requires_grad_(weight.is_floating_point())
    # A new adapter that is trained on top needs base and adapter, so it must name this adapter as its base.
    model.name_or_path = model.config._name_or_path = absolute(adapter.path)
    full_model: PreTrainedModel = model
    return full_model


def absolute(path: str | None) -> str | None:
    """Return an existing folder as an absolute path, and anything else, such as a hub id, unchanged."""
    return str(Path(path).absolute()) if path and Path(path).is_dir() else path


def replaced_weights(adapter: Adapter) -> set[str]:
    """Return the names in the adapter's file as the base names them; they include fully replaced weights.

    An adapter replaces a weight where peft's `modules_to_save` holds it, such as the output of a reward model.
    """
    return {name.removeprefix("base_model.model.") for name in _shapes(adapter)}


def _shapes(adapter: Adapter) -> dict[str, list[int]]:
    file = adapter.file(_WEIGHTS)
    if file is None:
        pickled = adapter.file("adapter_model.bin")
        remedy = (
            "adapter_model.bin is a pickle, which is never loaded; save it as safetensors" if pickled else "restore it"
        )
        raise InputError(f"model.path: the adapter {adapter.path!r} has no {_WEIGHTS}; {remedy}")
    try:
        return tensor_shapes(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"model.path: cannot read {file}: {one_line(error)}") from error


def _resize_embedding(base: PreTrainedModel, shapes: dict[str, list[int]]) -> None:
    """Resize the base's embedding to the one in the adapter's file, which is larger if tokens were added."""
    embedding: Any = base.get_input_embeddings()
    name = next(name for name, module in base.named_modules() if module is embedding)
    rows = [
        shape[0] for key, shape in shapes.items() if re.search(rf"\b{re.escape(name)}\.(base_layer\.)?weight$", key)
    ]
    if rows and rows[0] != len(embedding.weight):
        base.resize_token_embeddings(rows[0], mean_resizing=False)
