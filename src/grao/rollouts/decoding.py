"""What makes a sampled token cheap: a cache with room to grow, and on a CPU weights in the layout of oneDNN.

A new token's keys and values are written in place, where transformers copies the whole cache. One new token a row makes
thin products, 1 to 64 rows with a whole weight matrix; in the layout that PyTorch keeps they take 1.3 to 4 times as
long as in oneDNN's. A reordering costs about as much as five products, and a copy of the weights until the rollout ends
(docs/LOG.md).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.cache_utils import DynamicLayer

_ROOM = 256
"""Tokens by which a full layer of the cache grows."""
_WORTH = 2**16
"""Weights of a layer from which the layout matters."""
_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether this build of PyTorch has oneDNN's product with reordered weights, which its own compiler uses."""


def expanded(cache: Cache, rows: Tensor, room: int) -> None:
    """The cache of these rows, each as often as it is named, with room for `room` tokens behind it.

    Layers that keep a window or a state only stay what they are; their copies do not grow.
    """
    cache.layers = [
        GrowingLayer(layer, rows, min(room, _ROOM))
        if type(layer) is DynamicLayer and layer.is_initialized
        else _taken(layer, rows)
        for layer in cache.layers
    ]


class GrowingLayer(DynamicLayer):
    """As `DynamicLayer`, with keys and values as views of larger (rows, heads, capacity, D) buffers.

    Args:
        layer: what it begins with.
        rows: of the layer, each as often as it is named.
        room: tokens to reserve behind it.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, layer: Any, rows: Tensor, room: int = _ROOM) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(layer.keys, layer.values)
        self._hold(layer.keys[rows], layer.values[rows], room)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends (rows, heads, T, D) keys and values; returns all of them."""
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self._key_buffer.shape[-2]:
            self._hold(self.keys, self.values, room=end - start + _ROOM)
        self._key_buffer[:, :, start:end] = key_states
        self._value_buffer[:, :, start:end] = value_states
        self._show(end)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keeps these rows; the room behind them stays."""
        room = self._key_buffer.shape[-2] - self.keys.shape[-2]
        self._hold(self.keys[beam_idx], self.values[beam_idx], room)

    def _hold(self, keys: Tensor, values: Tensor, room: int) -> None:
        length = keys.shape[-2]
        self._key_buffer, self._value_buffer = (_with_room(states, room) for states in (keys, values))
        self._show(length)

    def _show(self, length: int) -> None:
        self.keys, self.values = self._key_buffer[:, :, :length], self._value_buffer[:, :, :length]


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


def _with_room(states: Tensor, room: int) -> Tensor:
    rows, heads, length, width = states.shape
    buffer = states.new_empty(rows, heads, length + room, width)
    buffer[:, :, :length] = states
    return buffer


def _taken(layer: Any, rows: Tensor) -> Any:
    layer.reorder_cache(rows)  # the one selection of rows that every kind of layer has, for beam search
    return layer
