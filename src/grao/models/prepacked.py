"""Linear layers in the layout that oneDNN multiplies fastest, for the time of sampling on a CPU.

One new token a row makes thin products, 1 to 64 rows with a whole weight matrix. In the layout that PyTorch keeps they
take 1.3 to 4 times as long; reordered once, the same weights serve all tokens of a rollout. A reordering costs about as
much as five products, and a copy of the weights until the rollout ends (docs/LOG.md).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_WORTH = 2**16
"""Weights of a layer from which the layout matters."""
_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether this build of PyTorch has oneDNN's product with reordered weights, which its own compiler uses."""


@contextmanager
def prepacked(model: nn.Module) -> Iterator[None]:
    """Within it, large linear layers in single precision on a CPU use reordered copies of weights that stay."""
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and _fits(layer)]
    try:
        for layer in layers:
            layer.forward = _product(layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _fits(layer: nn.Linear) -> bool:
    """A plain linear layer that nobody else has changed."""
    if type(layer) is not nn.Linear or "forward" in vars(layer) or not _AVAILABLE:
        return False
    weight = layer.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= _WORTH


def _product(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    weight, bias = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None), layer.bias

    def forward(states: Tensor) -> Tensor:
        if states.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return nn.Linear.forward(layer, states)  # mixed precision is for the layer to decide
        result: Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
        return result

    return forward
