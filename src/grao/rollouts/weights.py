"""Export the policy's weights in checkpoint format, for engines that hold weights of their own.

Adapters are merged, experts are separate tensors, and names are those on the hub. The policy is not changed: adapters
are merged in a copy of one layer at a time, and sharded weights are gathered one layer at a time.
"""

import re
from collections.abc import Iterator
from copy import deepcopy
from itertools import groupby
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from grao.engine.interface import base_model
from grao.engine.sharded import full_value, is_split, named_weights
from grao.errors import InputError

_CRITIC = "value_head."


@torch.no_grad()
def policy_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of every weight, layer by layer, as `save_pretrained` of the merged model would write them.

    Args:
        policy: as passed to `Generator.sync`. If it is sharded, every process must iterate over all weights.

    Raises:
        InputError: if the weights are quantized.
    """
    model = base_model(policy)
    if getattr(model, "is_quantized", False):
        raise InputError("rollout.engine: vLLM cannot load the weights of a quantized model; set it to transformers")
    named_weights(model)
    adapted, exported = _adapted(model), set[Any]()
    for _, layer in groupby(model.state_dict(keep_vars=True).items(), key=lambda entry: _layer_of(entry[0])):
        weights: dict[str, Tensor] = {}
        for name, weight in layer:
            owner = next((above for above in adapted if name.startswith(f"{above}.")), None)
            source = owner or id(weight)  # tied weights, and all weights of an adapted layer, are exported once
            if source in exported or name.startswith(_CRITIC):
                continue
            exported.add(source)
            if owner is None:
                weights[name] = full_value(weight)
            else:
                weights |= _merged(adapted[owner]).state_dict(prefix=f"{owner}.")
        yield from revert_weight_conversion(model, weights).items()


def _layer_of(name: str) -> str:
    """Return the prefix that the weights of a layer share, such as `model.layers.3.`; else the name itself."""
    prefix = re.match(r".*?\.\d+\.", name)
    return prefix.group() if prefix else name


def _adapted(model: nn.Module) -> dict[str, nn.Module]:
    """Return the outermost modules that an adapter changes or replaces, by name."""
    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    adapted: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{above}.") for above in adapted)
        changed = isinstance(module, kinds)
        if changed and not inside:
            adapted[name] = module
    return adapted


def _merged(layer: nn.Module) -> nn.Module:
    """Return a plain copy of the layer with the adapter merged by peft."""
    copied: Any = deepcopy(layer, {id(w): nn.Parameter(full_value(w)) for w in layer.parameters() if is_split(w)})
    if isinstance(copied, AuxiliaryTrainingWrapper):
        merged: nn.Module = copied.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        return merged
    copied.merge(safe_merge=False, adapter_names=None)
    merged = copied.get_base_layer()
    return merged
