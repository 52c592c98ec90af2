"""A copy of the policy that samples in its place: in half precision, with its adapter merged, or unsharded.

- Half precision: autocast would round the single-precision weights again for every token; the copy is rounded once.
- Merged adapter: an unmerged adapter costs two small products per layer and token. Merging saves them, but rounds the
  sum to the copy's dtype.
- Unsharded: sharded weights can only be gathered by all processes together, and each process samples at its own pace.

The effect of rounding on the probabilities is logged as `sampler/gap`. The copy stays at the same addresses: `sync`
writes the policy's values into it, so captured graphs remain valid.
"""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from grao.engine.interface import transformers_model
from grao.engine.sharded import full_value, named_weights
from grao.errors import InputError, one_line
from grao.rollouts.base import Generator, Sampling
from grao.types import Answer, TokenIds

_BASE = ".base_layer."
"""Part of the name of a weight that has an adapter."""


def copy_dtype(policy: nn.Module, half: torch.dtype | None, on_gpu: bool) -> torch.dtype | None:
    """Return the dtype of a rounded copy, or None if none is needed.

    It is bfloat16 in bfloat16 mixed precision on a GPU, if all weights are in single precision.

    Args:
        policy: the model in training.
        half: dtype of mixed precision; None without.
        on_gpu: whether the copy samples on a GPU.
    """
    single = all(weight.dtype == torch.float32 for weight in policy.parameters())
    return half if on_gpu and single and half == torch.bfloat16 else None


def copy_bytes(policy: nn.Module, dtype: torch.dtype | None, merged: bool, split: bool = False) -> int:
    """Return the bytes that the copy made by `sampler_of` takes in addition to the policy.

    Args:
        policy: as in `sampler_of`; may be on the meta device.
        dtype: as in `sampler_of`.
        merged: as in `sampler_of`.
        split: as in `sampler_of`.

    Raises:
        InputError: as `sampler_of`.
    """
    if not (dtype or merged or split):
        return 0
    adapter = _adapters(policy, merged)
    weights = policy.named_parameters()
    dtypes = [(weight, _copied_dtype(name, weight, dtype, adapter, split)) for name, weight in weights]
    return sum(weight.numel() * copied.itemsize for weight, copied in dtypes if copied)


def sampler_of(
    policy: nn.Module,
    build: Callable[[nn.Module], Generator],
    dtype: torch.dtype | None,
    merged: bool,
    split: bool = False,
) -> Generator:
    """Build an engine that samples from the policy itself or, if needed, from a copy of it.

    Args:
        policy: the model in training.
        build: builds an engine for the model that samples.
        dtype: that single-precision weights are rounded to in the copy; None does not round.
        merged: whether to merge the adapter in the copy.
        split: whether the policy, now unsharded, will be sharded later.

    Raises:
        InputError: if there is no adapter to merge, or its base is quantized.
    """
    return CopyGenerator(policy, build, dtype, merged, split) if merged or dtype or split else build(policy)


class CopyGenerator:
    """Samples from a copy of the policy.

    Args:
        policy: as in `sampler_of`.
        build: as in `sampler_of`.
        dtype: as in `sampler_of`.
        merged: as in `sampler_of`.
        split: as in `sampler_of`.
    """

    def __init__(
        self,
        policy: nn.Module,
        build: Callable[[nn.Module], Generator],
        dtype: torch.dtype | None,
        merged: bool,
        split: bool = False,
    ) -> None:
        self._merged = merged
        adapter = _adapters(policy, merged)
        copies = {id(w): _copied(name, w, dtype, adapter, split) for name, w in policy.named_parameters()}
        self.model: Any = deepcopy(policy, copies)
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
        """Copy the policy's trained weights and, for a merged adapter, the base weights, which the last merge changed.

        Args:
            policy: the model in training.

        Raises:
            InputError: if the adapter cannot be merged.
        """
        weights = named_weights(policy)
        for name, copied in self.model.named_parameters():
            if weights[name].requires_grad or (self._merged and _BASE in name):
                copied.copy_(full_value(weights[name]))
        for copied, buffer in zip(self.model.buffers(), policy.buffers(), strict=True):
            copied.copy_(buffer)
        if self._merged:
            for layer in self.model.modules():
                if isinstance(layer, BaseTunerLayer):
                    layer.merged_adapters.clear()  # the base weights have just been restored from the policy
            try:
                self.model.base_model.merge_adapter()
            except (ValueError, AttributeError, NotImplementedError) as error:
                raise InputError(f"rollout.merge_adapter: {one_line(error)}") from error


def _adapters(policy: nn.Module, merged: bool) -> str | None:
    """Return the marker in the names of adapter weights that are to be merged; None if nothing is merged.

    Raises:
        InputError: if there is no adapter, or its base is quantized.
    """
    if not merged:
        return None
    if not isinstance(policy, PeftModel):
        raise InputError("rollout.merge_adapter: the model has no adapter; set model.lora, or leave this out")
    if getattr(transformers_model(policy), "is_quantized", False):
        raise InputError("rollout.merge_adapter: an adapter cannot be merged into quantized weights; leave this out")
    return cast(str, cast(Any, policy).base_model.prefix)


def _copied_dtype(
    name: str, weight: nn.Parameter, dtype: torch.dtype | None, adapter: str | None, split: bool
) -> torch.dtype | None:
    """Return the dtype of a weight's copy; None if the copy shares the weight's memory.

    Memory is shared if the values are always equal, or if the policy will move to shards of its own and leave this
    memory to the copy.
    """
    # Adapter weights are merged in full precision; only the sum is rounded.
    rounded = weight.dtype == torch.float32 and not (adapter and f".{adapter}" in name)
    copied = dtype if dtype and rounded else weight.dtype
    merging = adapter is not None and _BASE in name
    return None if copied == weight.dtype and not merging and (split or not weight.requires_grad) else copied


def _copied(
    name: str, weight: nn.Parameter, dtype: torch.dtype | None, adapter: str | None, split: bool
) -> nn.Parameter:
    """Return the parameter of the copy that corresponds to a weight of the policy."""
    copied = _copied_dtype(name, weight, dtype, adapter, split)
    if copied is None:
        return nn.Parameter(weight.detach(), requires_grad=False) if split else weight
    return nn.Parameter(weight.detach().to(copied, copy=True), requires_grad=False)
