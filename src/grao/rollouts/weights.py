"""The policy's weights as a checkpoint holds them: an adapter merged, experts apart, names as on the hub.

Engines with weights of their own load these. The policy stays as it is: what an adapter changes is merged in a copy of
one layer at a time, and what is split over processes is gathered a layer at a time.
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
from grao.engine.sharded import is_split, named_weights, whole
from grao.errors import InputError

_CRITIC = "value_head."


@torch.no_grad()
def policy_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every weight, as `save_pretrained` of the merged model would write it, layer by layer.

    Args:
        policy: as `Generator.sync` gets it. If it is split over processes, all of them go through its weights.

    Raises:
        InputError: if its weights are quantised.
    """
    model = base_model(policy)
    if getattr(model, "is_quantized", False):
        raise InputError("rollout.engine: vLLM does not take the weights of a quantised model; use transformers")
    named_weights(model)
    adapted, seen = _adapted(model), set[Any]()
    for _, layer in groupby(model.state_dict(keep_vars=True).items(), key=lambda entry: _layer_of(entry[0])):
        weights: dict[str, Tensor] = {}
        for name, weight in layer:
            owner = next((above for above in adapted if name.startswith(f"{above}.")), None)
            known = owner or id(weight)  # tied weights are there once
            if known in seen or name.startswith(_CRITIC):
                continue
            seen.add(known)
            own = {name: whole(weight)} if owner is None else _merged(adapted[owner]).state_dict(prefix=f"{owner}.")
            weights |= own
        yield from revert_weight_conversion(model, weights).items()


def _layer_of(name: str) -> str:
    """`model.layers.3.` for all weights of that layer; outside of layers the name itself."""
    found = re.match(r".*?\.\d+\.", name)
    return found.group() if found else name


def _adapted(model: nn.Module) -> dict[str, nn.Module]:
    """Name and module of every layer that an adapter changes or replaces."""
    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{above}.") for above in found)
        found |= {name: module} if isinstance(module, kinds) and not inside else {}
    return found


def _merged(layer: nn.Module) -> nn.Module:
    """The layer as it would be without an adapter, computed in a copy by peft itself."""
    copied: Any = deepcopy(layer, {id(w): nn.Parameter(whole(w)) for w in layer.parameters() if is_split(w)})
    if isinstance(copied, AuxiliaryTrainingWrapper):
        merged: nn.Module = copied.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        return merged
    copied.merge(safe_merge=False, adapter_names=None)
    merged = copied.get_base_layer()
    return merged
