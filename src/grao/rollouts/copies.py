"""The model that samples, where it is not the policy itself: a copy in half precision, or one with the adapter merged.

Single-precision weights under bfloat16 training would be rounded anew for every token; one rounded copy is read
instead. An adapter beside the weights costs two small products a layer and token; merged into a copy it costs none, but
the sum is rounded to the copy's format. What rounding makes of the probabilities shows in `sampler/gap`.
A copy stays in place: `sync` writes the policy's numbers into it.
"""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from grao.engine.interface import transformers_model
from grao.errors import InputError, one_line
from grao.rollouts.base import Generator, Sampling
from grao.types import Answer, TokenIds

_BASE = ".base_layer."
"""In the name of a weight that has an adapter beside it."""


def wants_copy(policy: nn.Module) -> bool:
    """Whether training in mixed precision calls for a copy: all weights are in single precision, on a GPU."""
    return all(weight.is_cuda and weight.dtype == torch.float32 for weight in policy.parameters())


def sampler_of(
    policy: nn.Module, build: Callable[[nn.Module], Generator], dtype: torch.dtype | None, merged: bool
) -> Generator:
    """An engine that samples from the policy, or from a copy of it.

    Args:
        policy: the model as it is trained.
        build: makes an engine for the model that samples.
        dtype: of the copy's weights, in place of single precision; None leaves them as they are.
        merged: whether the copy has the adapter in its weights.

    Raises:
        InputError: if there is no adapter to merge, or its base is quantised.
    """
    if merged and not isinstance(policy, PeftModel):
        raise InputError("rollout.merge_adapter: the model has no adapter; set model.lora, or leave it out")
    if merged and getattr(transformers_model(policy), "is_quantized", False):
        raise InputError("rollout.merge_adapter: quantised weights cannot take an adapter in; leave it out")
    return CopyGenerator(policy, build, dtype, merged) if merged or dtype else build(policy)


class CopyGenerator:
    """Samples from a copy of the policy. Arguments as in `sampler_of`."""

    def __init__(
        self, policy: nn.Module, build: Callable[[nn.Module], Generator], dtype: torch.dtype | None, merged: bool
    ) -> None:
        self._merged = merged
        apart: str | None = cast(Any, policy).base_model.prefix if merged else None  # in the names of adapters' weights
        stand_ins = {id(weight): _stand_in(name, weight, dtype, apart) for name, weight in policy.named_parameters()}
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
        """Writes the policy's numbers into the copy."""
        numbers = _numbers(policy)
        for name, kept in _numbers(self.model).items():
            if kept is not numbers[name]:
                kept.copy_(numbers[name])
        if self._merged:
            for layer in self.model.modules():
                if isinstance(layer, BaseTunerLayer):
                    layer.merged_adapters.clear()  # its weights are the policy's again
            try:
                self.model.base_model.merge_adapter()
            except (ValueError, AttributeError, NotImplementedError) as error:
                raise InputError(f"rollout.merge_adapter: {one_line(error)}") from error


def _stand_in(name: str, weight: nn.Parameter, dtype: torch.dtype | None, apart: str | None) -> nn.Parameter:
    """What the copy has in place of a weight. Frozen ones that would be the same are shared."""
    rounded = weight.dtype == torch.float32 and not (apart and f".{apart}" in name)  # what is merged is rounded after
    kept = dtype if dtype and rounded else weight.dtype
    if kept == weight.dtype and not weight.requires_grad and _BASE not in name:
        return weight
    return nn.Parameter(weight.detach().to(kept, copy=True), requires_grad=False)


def _numbers(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())
