"""A key-value cache with room to grow: a new token is written in place, where transformers copies the whole cache."""

from typing import Any

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

_ROOM = 256
"""Tokens by which a full layer grows."""


def expanded(cache: Cache, repeats: int, room: int) -> None:
    """Copies every row of a prompt's cache `repeats` times, with room for so many tokens behind it.

    Layers that keep a window only stay as they are, repeated; their copies are bounded by the window.
    """
    cache.layers = [
        GrowingLayer(layer, repeats, min(room, _ROOM)) if type(layer) is DynamicLayer else _repeated(layer, repeats)
        for layer in cache.layers
    ]


class GrowingLayer(DynamicLayer):
    """As `DynamicLayer`, with keys and values as views of larger (rows, heads, capacity, D) buffers.

    Args:
        layer: what it begins with.
        repeats: copies of each row.
        room: tokens to reserve behind it.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, layer: Any, repeats: int = 1, room: int = _ROOM) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lazy_initialization(layer.keys, layer.values)
        self._hold(layer.keys.repeat_interleave(repeats, 0), layer.values.repeat_interleave(repeats, 0), room)

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

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps some rows; the room behind them stays."""
        room = self._key_buffer.shape[-2] - self.keys.shape[-2]
        self._hold(self.keys[indices], self.values[indices], room)

    def _hold(self, keys: Tensor, values: Tensor, room: int) -> None:
        length = keys.shape[-2]
        self._key_buffer, self._value_buffer = (_with_room(states, room) for states in (keys, values))
        self._show(length)

    def _show(self, length: int) -> None:
        self.keys, self.values = self._key_buffer[:, :, :length], self._value_buffer[:, :, :length]


def _with_room(states: Tensor, room: int) -> Tensor:
    rows, heads, length, width = states.shape
    buffer = states.new_empty(rows, heads, length + room, width)
    buffer[:, :, :length] = states
    return buffer


def _repeated(layer: Any, repeats: int) -> Any:
    layer.batch_repeat_interleave(repeats)
    return layer
