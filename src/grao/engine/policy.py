"""The policy as training takes it, by its path or as an object: no base in place of an adapter, something to train."""

import warnings
from collections.abc import Mapping
from copy import copy
from typing import Any, Literal, NamedTuple, cast

from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from grao.engine.adapters import Adapter, absolute, adapter_at, attached, check_kind
from grao.engine.interface import base_model
from grao.engine.loading import add_adapter, load_model, model_shape
from grao.errors import InputError, one_line

Choice = Literal["continue", "merge"]
"""What becomes of an adapter that is given as the model."""

_CALLED = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "target_modules": "target_modules"}
"""Field of `model.lora` -> what peft calls it."""


class Policy(NamedTuple):
    """A loaded policy."""

    model: PreTrainedModel | PeftModel
    note: str
    """What becomes of the adapter that the path names; empty if it names a whole model."""


def load_policy(path: str, choice: Choice, lora: Mapping[str, Any] | None, **options: Any) -> Policy:
    """The model that a path names. An adapter goes on training on its base, or is merged into it.

    Args:
        path: model folder, adapter folder, folder of a run, or hub id.
        choice: what becomes of an adapter.
        lora: the section `model.lora`, which must be that of an adapter that goes on.
        options: as in `load_model`.

    Raises:
        InputError: if there is no such model, the adapter does not fit its base or the section, or there is no adapter
            to merge.
    """
    adapter = _fitting(path, choice, lora, options.get("quantization"))
    if adapter is None:
        return Policy(load_model(path, **options), "")
    shown = f"{path} is {adapter.words} of {adapter.base}"
    if choice == "merge":
        return Policy(load_model(path, **options), f"{shown}: it is merged into it before the training")
    return Policy(attached(adapter, lambda base: load_model(base, **options)), f"{shown}: it goes on training")


def policy_shape(
    path: str,
    choice: Choice,
    lora: Mapping[str, Any] | None,
    dtype: str,
    trust_remote_code: bool,
    quantization: str | None = None,
) -> PreTrainedModel | PeftModel:
    """As `load_policy`, on the meta device and from the files of settings alone; arguments and errors as there."""
    adapter, model = _fitting(path, choice, lora, quantization), model_shape(path, dtype, trust_remote_code)
    if adapter and choice == "continue":
        config = copy(adapter.config)
        config.inference_mode = False
        return cast(PeftModel, get_peft_model(model, config))
    return add_adapter(model, **lora) if lora else model


def _fitting(path: str, choice: Choice, lora: Mapping[str, Any] | None, quantization: str | None) -> Adapter | None:
    """The adapter that a path names, if it does; what is asked of it fits."""
    adapter = adapter_at(path)
    if adapter is None and choice == "merge":
        raise InputError(f"model.adapter: there is none to merge, {path!r} is a whole model; leave it out")
    if adapter is None and quantization and not lora:
        raise InputError("model.quantization: weights of 4 bits are not trained themselves; give model.lora")
    if adapter and choice == "continue":
        _check_same(adapter, lora or {})
    return adapter


def _check_same(adapter: Adapter, lora: Mapping[str, Any]) -> None:
    for name, value in lora.items():
        has = getattr(adapter.config, _CALLED[name], None)
        wanted, had = (set(value), set(has or ())) if isinstance(value, list) else (value, has)
        if wanted != had and value != "all-linear":
            raise InputError(
                f"model.lora.{name} is {value}, but the adapter {adapter.path!r} has {has}; leave model.lora out to "
                "train it further as it is, or set model.adapter: merge to merge it and train a new one"
            )


def given_policy(model: Any, peft_config: PeftConfig | None) -> PreTrainedModel | PeftModel:
    """The policy of a trainer that is built by hand, with something to train.

    Args:
        model: a language model, a `PeftModel`, or what `load_policy` takes as path.
        peft_config: of a new adapter; one that the path names is merged before.

    Raises:
        InputError: if it is no decoder-only language model, nothing of it is trained, or it has an adapter of another
            kind, or one beside `peft_config`.
    """
    if peft_config:
        check_kind(peft_config, "peft_config")
    if isinstance(model, str):
        choice: Choice = "merge" if peft_config and adapter_at(model) else "continue"
        model, note = load_policy(model, choice, None)
        if note:
            warnings.warn(note, stacklevel=3)
    inner = base_model(model)
    if not isinstance(inner, PreTrainedModel) or not inner.can_generate() or inner.config.is_encoder_decoder:
        raise InputError(f"model: {type(inner).__name__} is no decoder-only language model of transformers")
    if peft_config and getattr(model, "peft_config", None):
        raise InputError(
            "peft_config: the model has an adapter already; leave peft_config out to train that one further, or give "
            "the folder of the adapter as the model to merge it and train a new one"
        )
    if peft_config:
        try:
            model = get_peft_model(model, peft_config)
        except ValueError as error:
            raise InputError(f"peft_config: {one_line(error)}") from error
    for config in getattr(model, "peft_config", {}).values():
        check_kind(config, "model")
        config.base_model_name_or_path = absolute(config.base_model_name_or_path)
    check_trained(model)
    policy: PreTrainedModel | PeftModel = model
    return policy


def check_trained(model: nn.Module) -> None:
    """Checks that something is trained, and that what is trained takes part.

    Raises:
        InputError: if not.
    """
    if isinstance(model, PeftModel):
        status: Any = model.get_model_status()
        if status.merged_adapters:
            raise InputError("model: its adapter is merged into the weights for now; call model.unmerge_adapter first")
        if idle := [name for name, on in status.requires_grad.items() if on and name not in status.active_adapters]:
            raise InputError(f"model: its adapter {idle[0]!r} is trained but not active; call model.set_adapter first")
    if getattr(model, "_hf_peft_config_loaded", False):
        raise InputError("model: transformers loaded an adapter into it; give a PeftModel, or the adapter's folder")
    if not any(weight.requires_grad for weight in model.parameters()):
        adapted = "load its adapter with is_trainable=True, or give the adapter's folder as the model"
        remedy = adapted if isinstance(model, PeftModel) else "set requires_grad on what is to be trained"
        raise InputError(f"model: nothing of it is trained, all its weights are frozen; {remedy}")
