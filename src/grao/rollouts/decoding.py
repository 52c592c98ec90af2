"""Faster decoding: a cache with room to grow and, on a CPU, weights in oneDNN's layout.

The keys and values of a new token are written in place, whereas transformers copies the whole cache for every token.
Decoding multiplies only 1 to 64 rows with each weight matrix; such thin products take 1.3 to 4 times as long in
PyTorch's weight layout as in oneDNN's. Reordering a weight costs about as much as five products, plus a copy of the
weights until the rollout ends (docs/LOG.md).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.cache_utils import DynamicLayer

_ROOM = 256
"""Tokens by which a full cache layer grows."""
_LARGE = 2**16
"""The layout matters for linear layers with at least this many weights."""
_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether this build of PyTorch has oneDNN's product with reordered weights, which torch.compile uses."""


def expand_cache(cache: Cache, rows: Tensor, room: int) -> None:
    """Select rows of a cache in place, with repetition, and reserve room for new tokens.

    Layers that keep only a window or a state keep their type, since they do not grow.

    Args:
        cache: changed in place.
        rows: (R,), indices of the rows to keep; a row may appear several times.
        room: number of tokens to reserve.
    """
    cache.layers = [
        GrowingLayer(layer, rows, min(room, _ROOM))
        if type(layer) is DynamicLayer and layer.is_initialized
        else _select_rows(layer, rows)
        for layer in cache.layers
    ]


class GrowingLayer(DynamicLayer):
    """A `DynamicLayer` whose keys and values are views of larger (rows, heads, capacity, D) buffers.

    Args:
        layer: the layer to copy.
        rows: (R,), indices of its rows to copy; a row may appear several times.
        room: number of tokens to reserve.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, layer: Any, rows: Tensor, room: int = _ROOM) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(layer.keys, layer.values)
        self._allocate(layer.keys[rows], layer.values[rows], room)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (rows, heads, T, D) keys and values; return all keys and values."""
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self._key_buffer.shape[-2]:
            self._allocate(self.keys, self.values, room=end - start + _ROOM)
        self._key_buffer[:, :, start:end] = key_states
        self._value_buffer[:, :, start:end] = value_states
        self._show(end)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, and the reserved room."""
        room = self._key_buffer.shape[-2] - self.keys.shape[-2]
        self._allocate(self.keys[beam_idx], self.values[beam_idx], room)

    def _allocate(self, keys: Tensor, values: Tensor, room: int) -> None:
        length = keys.shape[-2]
        self._key_buffer, self._value_buffer = (_with_room(states, room) for states in (keys, values))
        self._show(length)

    def _show(self, length: int) -> None:
        self.keys, self.values = self._key_buffer[:, :, :length], self._value_buffer[:, :, :length]


@contextmanager
def prepacked(model: nn.Module) -> Iterator[None]:
    """Let large single-precision linear layers on a CPU use reordered copies of their weights inside the context.

    The weights must not change meanwhile.
    """
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and _fits(layer)]
    try:
        for layer in layers:
            layer.forward = _product(layer)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _fits(layer: nn.Linear) -> bool:
    """Whether a layer is a large, plain linear layer whose forward has not been replaced."""
    if type(layer) is not nn.Linear or "forward" in vars(layer) or not _AVAILABLE:
        return False
    weight = layer.weight
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= _LARGE


def _product(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    weight, bias = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None), layer.bias

    def forward(states: Tensor) -> Tensor:
        if states.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return nn.Linear.forward(layer, states)  # under autocast, the layer's own forward casts
        result: Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
        return result

    return forward


def _with_room(states: Tensor, room: int) -> Tensor:
    rows, heads, length, width = states.shape
    buffer = states.new_empty(rows, heads, length + room, width)
    buffer[:, :, :length] = states
    return buffer


def _select_rows(layer: Any, rows: Tensor) -> Any:
    layer.reorder_cache(rows)  # meant for beam search, but the only row selection that every layer type has
    return layer
