"""The model that samples, where it is not the policy itself: in half precision, with the adapter merged, or whole.

Single-precision weights under bfloat16 training would be rounded anew for every token; one rounded copy is read
instead. An adapter beside the weights costs two small products a layer and token; merged into a copy it costs none, but
the sum is rounded to the copy's format. What rounding makes of the probabilities shows in `sampler/gap`. Weights that
are split over processes can only be read by all at once, and processes sample at their own pace.
A copy stays in place: `sync` writes the policy's numbers into it.
"""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from grao.engine.interface import transformers_model
from grao.engine.sharded import named_weights, whole
from grao.errors import InputError, one_line
from grao.rollouts.base import Generator, Sampling
from grao.types import Answer, TokenIds

_BASE = ".base_layer."
"""In the name of a weight that has an adapter beside it."""


def copy_dtype(policy: nn.Module, half: torch.dtype | None, on_gpu: bool) -> torch.dtype | None:
    """What a copy is rounded to: bfloat16 in mixed precision on a GPU, if all weights are in single precision.

    Args:
        policy: the model as it is trained.
        half: number format of mixed precision; None without.
        on_gpu: whether it samples on one.
    """
    single = all(weight.dtype == torch.float32 for weight in policy.parameters())
    return half if on_gpu and single and half == torch.bfloat16 else None


def copy_bytes(policy: nn.Module, dtype: torch.dtype | None, merged: bool, split: bool = False) -> int:
    """What the copy of `sampler_of` takes beside the policy, which may be on the meta device; arguments and errors as
    there."""
    if not (dtype or merged or split):
        return 0
    apart = _adapters(policy, merged)
    kept = [(weight, _kept(name, weight, dtype, apart, split)) for name, weight in policy.named_parameters()]
    return sum(weight.numel() * number.itemsize for weight, number in kept if number)


def sampler_of(
    policy: nn.Module,
    build: Callable[[nn.Module], Generator],
    dtype: torch.dtype | None,
    merged: bool,
    split: bool = False,
) -> Generator:
    """An engine that samples from the policy, or from a copy of it.

    Args:
        policy: the model as it is trained.
        build: makes an engine for the model that samples.
        dtype: of the copy's weights, in place of single precision; None leaves them as they are.
        merged: whether the copy has the adapter in its weights.
        split: whether the policy, which is whole now, will be split over processes.

    Raises:
        InputError: if there is no adapter to merge, or its base is quantised.
    """
    return CopyGenerator(policy, build, dtype, merged, split) if merged or dtype or split else build(policy)


class CopyGenerator:
    """Samples from a copy of the policy. Arguments as in `sampler_of`."""

    def __init__(
        self,
        policy: nn.Module,
        build: Callable[[nn.Module], Generator],
        dtype: torch.dtype | None,
        merged: bool,
        split: bool = False,
    ) -> None:
        self._merged = merged
        apart = _adapters(policy, merged)
        stand_ins = {id(w): _stand_in(name, w, dtype, apart, split) for name, w in policy.named_parameters()}
        self.model: Any = deepcopy(policy, stand_ins)
        self.refresh(policy)
        self.engine = build(self.model)

    def generate(
        self, prompts: Sequence[TokenIds], keys: Sequence[int], sampling: Sampling
    ) -> Iterable[tuple[int, Sequence[Answer]]]:
        """See `Generator.generate`."""
        return self.engine.generate(prompts, keys, sampling)

    def sync(self, policy: nn.Module) -> None:
        """See `Generator.sync`."""
        self.refresh(policy)
        self.engine.sync(self.model)

    @torch.no_grad()
    def refresh(self, policy: nn.Module) -> None:
        """Writes the policy's numbers into the copy: those that training moves, and what merging changed."""
        weights = named_weights(policy)
        for name, kept in self.model.named_parameters():
            if weights[name].requires_grad or (self._merged and _BASE in name):
                kept.copy_(whole(weights[name]))
        for kept, buffer in zip(self.model.buffers(), policy.buffers(), strict=True):
            kept.copy_(buffer)
        if self._merged:
            for layer in self.model.modules():
                if isinstance(layer, BaseTunerLayer):
                    layer.merged_adapters.clear()  # its weights are the policy's again
            try:
                self.model.base_model.merge_adapter()
            except (ValueError, AttributeError, NotImplementedError) as error:
                raise InputError(f"rollout.merge_adapter: {one_line(error)}") from error


def _adapters(policy: nn.Module, merged: bool) -> str | None:
    """What is in the names of adapters' weights, if they are to be merged.

    Raises:
        InputError: if they cannot be.
    """
    if not merged:
        return None
    if not isinstance(policy, PeftModel):
        raise InputError("rollout.merge_adapter: the model has no adapter; set model.lora, or leave it out")
    if getattr(transformers_model(policy), "is_quantized", False):
        raise InputError("rollout.merge_adapter: quantised weights cannot take an adapter in; leave it out")
    return cast(str, cast(Any, policy).base_model.prefix)


def _kept(
    name: str, weight: nn.Parameter, dtype: torch.dtype | None, apart: str | None, split: bool
) -> torch.dtype | None:
    """The number format of what the copy has in place of a weight; None where it has the weight's own memory.

    That is so where both would be the same, if the weight is frozen or the policy will have a part of its own.
    """
    rounded = weight.dtype == torch.float32 and not (apart and f".{apart}" in name)  # what is merged is rounded after
    kept = dtype if dtype and rounded else weight.dtype
    merging = apart is not None and _BASE in name
    return None if kept == weight.dtype and not merging and (split or not weight.requires_grad) else kept


def _stand_in(
    name: str, weight: nn.Parameter, dtype: torch.dtype | None, apart: str | None, split: bool
) -> nn.Parameter:
    """What the copy has in place of a weight."""
    kept = _kept(name, weight, dtype, apart, split)
    if kept is None:
        return nn.Parameter(weight.detach(), requires_grad=False) if split else weight
    return nn.Parameter(weight.detach().to(kept, copy=True), requires_grad=False)
