"""Load the policy to train, or check one built in Python; an adapter is continued, merged or added."""

import warnings
from collections.abc import Mapping
from copy import copy
from typing import Any, Literal, NamedTuple, cast

from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from grao.engine.adapters import Adapter, absolute, adapter_at, attach_adapter, check_kind
from grao.engine.interface import base_model
from grao.engine.loading import add_adapter, load_model, model_shape
from grao.errors import InputError, one_line

Choice = Literal["continue", "merge"]
"""What to do with an adapter that is given as the model: train it further, or merge it into its base."""

_PEFT_NAMES = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "target_modules": "target_modules"}
"""Field of `model.lora` -> its name in peft."""


class Policy(NamedTuple):
    """A loaded policy."""

    model: PreTrainedModel | PeftModel
    note: str
    """What happens to the adapter at the path, for the user; empty if the path holds a full model."""


def load_policy(path: str, choice: Choice, lora: Mapping[str, Any] | None, **options: Any) -> Policy:
    """Load the model at a path; an adapter is either trained further on its base or merged into it.

    Args:
        path: model folder, adapter folder, run folder, or hub id.
        choice: what to do with an adapter.
        lora: the section `model.lora`; must match an adapter that is trained further.
        options: as in `load_model`.

    Raises:
        InputError: if there is no such model, the adapter does not fit its base or the section, or there is no adapter
            to merge.
    """
    adapter = _checked_adapter(path, choice, lora, options.get("quantization"))
    if adapter is None:
        return Policy(load_model(path, **options), "")
    description = f"{path} is {adapter.description} for {adapter.base}"
    if choice == "merge":
        return Policy(load_model(path, **options), f"{description}; it is merged into the base before training")
    return Policy(
        attach_adapter(adapter, lambda base: load_model(base, **options)), f"{description}; it is trained further"
    )


def policy_shape(
    path: str,
    choice: Choice,
    lora: Mapping[str, Any] | None,
    dtype: str,
    trust_remote_code: bool,
    quantization: str | None = None,
) -> PreTrainedModel | PeftModel:
    """Build the policy on the meta device, from the configuration files alone.

    Args:
        path: as in `load_policy`.
        choice: as in `load_policy`.
        lora: the section `model.lora`; None trains all weights.
        dtype: `auto`, `float32` or `bfloat16`.
        trust_remote_code: run Python code that comes with the checkpoint.
        quantization: `4bit`, or None.

    Raises:
        InputError: as `load_policy`.
    """
    adapter, model = _checked_adapter(path, choice, lora, quantization), model_shape(path, dtype, trust_remote_code)
    if adapter and choice == "continue":
        config = copy(adapter.config)
        config.inference_mode = False
        return cast(PeftModel, get_peft_model(model, config))
    return add_adapter(model, **lora) if lora else model


def _checked_adapter(
    path: str, choice: Choice, lora: Mapping[str, Any] | None, quantization: str | None
) -> Adapter | None:
    """Return the adapter at a path, or None for a full model, after checking it against the settings."""
    adapter = adapter_at(path)
    if adapter is None and choice == "merge":
        raise InputError(
            f"model.adapter: {path!r} is a full model, so there is no adapter to merge; leave out model.adapter"
        )
    if adapter is None and quantization and not lora:
        raise InputError("model.quantization: 4-bit weights cannot be trained directly; set model.lora")
    if adapter and choice == "continue":
        _check_lora_settings(adapter, lora or {})
    return adapter


def _check_lora_settings(adapter: Adapter, lora: Mapping[str, Any]) -> None:
    for name, value in lora.items():
        actual = getattr(adapter.config, _PEFT_NAMES[name], None)
        same = set(value) == set(actual or ()) if isinstance(value, list) else value == actual
        if not same and value != "all-linear":
            raise InputError(
                f"model.lora.{name} is {value}, but the adapter {adapter.path!r} has {actual}; leave model.lora out to "
                "train it further as it is, or set model.adapter: merge to merge it and train a new one"
            )


def given_policy(model: Any, peft_config: PeftConfig | None) -> PreTrainedModel | PeftModel:
    """Return the policy for a `GRAOTrainer` that is built in Python.

    Args:
        model: a language model, a `PeftModel`, or a path as in `load_policy`.
        peft_config: of a new adapter; an adapter at the path is merged first.

    Raises:
        InputError: if the model is not a decoder-only language model, nothing in it is trainable, its adapter is of an
            unsupported kind, or it has an adapter and `peft_config` is given too.
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
        raise InputError(f"model: {type(inner).__name__} is not a decoder-only language model of transformers")
    if peft_config and getattr(model, "peft_config", None):
        raise InputError(
            "peft_config: the model already has an adapter; leave peft_config out to train that adapter further, or "
            "pass the adapter's folder as the model to merge it and train a new one"
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
    """Check that some weights are trainable and that every trainable adapter is active.

    Raises:
        InputError: if not, or if the adapter was merged or was loaded by transformers itself.
    """
    if isinstance(model, PeftModel):
        status: Any = model.get_model_status()
        if status.merged_adapters:
            raise InputError("model: its adapter is currently merged; call model.unmerge_adapter first")
        if idle := [name for name, on in status.requires_grad.items() if on and name not in status.active_adapters]:
            raise InputError(f"model: its adapter {idle[0]!r} is trainable but inactive; call model.set_adapter first")
    if getattr(model, "_hf_peft_config_loaded", False):
        raise InputError("model: transformers loaded an adapter into it; pass a PeftModel, or the adapter's folder")
    if not any(weight.requires_grad for weight in model.parameters()):
        adapted = "load its adapter with is_trainable=True, or pass the adapter's folder as the model"
        remedy = adapted if isinstance(model, PeftModel) else "set requires_grad on the weights to train"
        raise InputError(f"model: all weights are frozen, so there is nothing to train; {remedy}")
