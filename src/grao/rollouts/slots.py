"""Slots: completions that are sampled side by side, each at its own position, in tensors that never move.

A slot holds one completion: its prompt lies in the cache at positions 0 to P - 2, its next input is the prompt's last
token. One step feeds every slot's token, writes keys and values where the slot stands, and draws the next token. All
state is updated in place and nothing is read back, so that a step can be captured as a CUDA graph and replayed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from grao.engine.interface import transformers_model
from grao.errors import BrokenNumbersError
from grao.rollouts.base import Sampling
from grao.rollouts.sampling import draw_tokens, token_logps
from grao.rollouts.transformers import KERNELS
from grao.types import Answer, TokenIds


class SlotLayer(CacheLayerMixin):
    """Keys and values of R slots in buffers with room for L tokens, (R, heads, L, D) each.

    Args:
        keys: the buffer, zero or of earlier slots: what a slot does not see must be finite.
        values: as `keys`.
        rows: 0 to R - 1.
        position: (R,), where each slot writes its next token; the caller moves it.
    """

    keys: Tensor
    values: Tensor
    is_sliding = False
    is_compileable = True

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, position: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = keys, values
        self._at = (rows, slice(None), position)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the buffers are there."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes (R, heads, 1, D) keys and values, each slot's at its position; returns the buffers."""
        self.keys[self._at] = key_states.squeeze(2).to(self.keys.dtype)
        self.values[self._at] = value_states.squeeze(2).to(self.values.dtype)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Of no use here, where every slot has its own: positions and masks are handed to the model."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """All of the buffer."""
        return self.keys.shape[2], 0

    def get_max_length(self) -> int:
        """The room."""
        return self.keys.shape[2]


class Slots:
    """R slots with room for L tokens, and the step that brings each one token further.

    Args:
        model: samples.
        prefix: the cache of any prompt, to see what the layers keep.
        rows: R.
        room: L.
        longest: tokens of a completion at most.
        stop_ids: tokens that end a completion.
        pad_id: any valid token.
    """

    def __init__(
        self, model: nn.Module, prefix: Cache, rows: int, room: int, longest: int, stop_ids: Tensor, pad_id: int
    ) -> None:
        self.model, self.stop_ids = model, stop_ids
        self.rows, self.room, self.longest, device = rows, room, longest, stop_ids.device
        self._buffers = [
            (_buffer(keys, rows, room), _buffer(values, rows, room)) for keys, values in map(_states, prefix.layers)
        ]
        self._row = torch.arange(rows, device=device)
        self._token = torch.full((rows,), pad_id, device=device)
        self._position = torch.zeros(rows, dtype=torch.long, device=device)
        self._count = torch.zeros_like(self._position)
        self.alive = torch.zeros(rows, dtype=torch.bool, device=device)
        """(R,), whether a slot has a completion that goes on. While none has, a step leaves all state as it is."""
        self._stopped = torch.zeros_like(self.alive)
        self._uniforms = torch.zeros(rows, longest, dtype=torch.float64, device=device)
        # The last column takes what slots without a completion write.
        self._tokens = torch.full((rows, longest + 1), pad_id, device=device)
        self._logps = torch.zeros(rows, longest + 1, device=device)
        self.counts: dict[int, int] = {}
        """Slot in use -> tokens sampled there at the last look."""

    def clear(self) -> None:
        """All slots are free."""
        self.alive.zero_()
        self._position.zero_()
        self.counts = {}

    def fill(self, slots: Sequence[int], prompt: TokenIds, prefix: tuple[Cache, int], uniforms: Tensor) -> None:
        """Begins a completion of a prompt in each of N free slots.

        Args:
            slots: N.
            prompt: its tokens.
            prefix: a cache and its row that holds the prompt without its last token (`prefill`).
            uniforms: (N, T), the draws of each completion.
        """
        into, width = torch.tensor(list(slots), device=self._token.device), len(prompt) - 1
        cache, row = prefix
        for buffers, layer in zip(self._buffers, cache.layers, strict=True):
            for buffer, states in zip(buffers, _states(layer), strict=True):
                buffer[into, :, :width] = states[row, :, :width]
        self._token[into], self._position[into], self._count[into], self.alive[into] = prompt[-1], width, 0, True
        self._uniforms[into, : uniforms.shape[1]] = uniforms.to(self._uniforms.device)
        self.counts |= dict.fromkeys(slots, 0)

    def harvest(self, rows: int) -> dict[int, Answer]:
        """Slot -> the completion that has ended there; the slot is free. Waits for the device.

        Raises:
            BrokenNumbersError: if logits were not finite.
        """
        alive, count, stopped = torch.stack([self.alive[:rows], self._count[:rows], self._stopped[:rows]]).tolist()
        ended = [slot for slot in self.counts if not alive[slot]]
        self.counts = {slot: count[slot] for slot in self.counts if alive[slot]}
        self._position.mul_(self.alive)  # a free slot stands at 0, within any room
        if not ended:
            return {}
        longest = max(count[slot] for slot in ended)
        tokens, logps = self._tokens[ended, :longest].tolist(), self._logps[ended, :longest].cpu()
        if not bool(logps.isfinite().all()):  # also of what was in the slot before, where it was looked at
            raise BrokenNumbersError("the model's logits are not finite, so nothing can be sampled from it")
        return {
            slot: Answer(tuple(ids[: count[slot]]), truncated=not stopped[slot], logps=tuple(seen[: count[slot]]))
            for slot, ids, seen in zip(ended, tokens, logps.tolist(), strict=True)
        }

    def compact(self, slots: Sequence[int]) -> None:
        """Moves the N slots in use, in ascending order, to the front."""
        source, kept = torch.tensor(list(slots), device=self._token.device), len(slots)
        state = (
            self._token, self._position, self._count, self.alive, self._stopped, self._uniforms, self._tokens,
            self._logps,
        )  # fmt: skip
        for tensor in (*state, *(buffer for pair in self._buffers for buffer in pair)):
            tensor[:kept] = tensor[source]
        self.alive[kept:] = False
        self._position[kept:] = 0
        self.counts = {row: self.counts[slot] for row, slot in enumerate(slots)}

    @torch.no_grad()
    def step(self, rows: int, room: int, sampling: Sampling) -> None:
        """One token more in each of the first `rows` slots, all of which stand below `room`."""
        position, alive, count = self._position[:rows], self.alive[:rows], self._count[:rows]
        views = [(keys[:rows, :, :room], values[:rows, :, :room]) for keys, values in self._buffers]
        logits: Tensor = self.model(
            input_ids=self._token[:rows, None],
            attention_mask=slot_masks(self.model, position, room, views[0][0].dtype),
            position_ids=position[:, None],
            past_key_values=Cache(layers=[SlotLayer(k, v, self._row[:rows], position) for k, v in views]),
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        last = sampling.max_new_tokens
        draws = self._uniforms[:rows].gather(1, count.clamp(max=last - 1)[:, None]).squeeze(1)
        token = draw_tokens(logits, draws, sampling.temperature, sampling.top_p)
        column = count.masked_fill(~alive, last)[:, None]
        self._tokens[:rows].scatter_(1, column, token[:, None])
        self._logps[:rows].scatter_(1, column, token_logps(logits, token)[:, None])
        stops = (token[:, None] == self.stop_ids).any(dim=1)  # isin would wait for the device
        self._stopped[:rows].copy_(stops.where(alive, self._stopped[:rows]))
        self._token[:rows].copy_(token.where(alive, self._token[:rows]))
        position.add_(alive)
        count.add_(alive)
        alive.logical_and_(~stops & (count < last))


def slot_masks(model: nn.Module, position: Tensor, room: int, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """(R, 1, 1, L), 0 on the tokens that each slot's next one sees; by kind of layer where a model has several.

    Raises:
        ValueError: for a model with layers of other kinds.
    """
    config = transformers_model(model).config.get_text_config()
    window: int | None = getattr(config, "sliding_window", None)
    kinds: set[str] = set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
    if getattr(config, "attention_chunk_size", None):
        kinds.add("chunked_attention")
    if not kinds <= {"full_attention", "sliding_attention"}:
        raise ValueError(f"it has layers of the kinds {', '.join(sorted(kinds))}")
    back = position[:, None] - torch.arange(room, device=position.device)
    seen = {"full_attention": back >= 0}
    if "sliding_attention" in kinds and window:
        seen["sliding_attention"] = seen["full_attention"] & (back < window)
    masks = {
        kind: torch.zeros(back.shape, dtype=dtype, device=back.device).masked_fill_(
            ~seen[kind], torch.finfo(dtype).min
        )[:, None, None]
        for kind in kinds
    }
    return masks if len(kinds) > 1 else masks[kinds.pop()]


def prefill(model: nn.Module, prompts: Sequence[Sequence[int]], pad_id: int) -> Cache:
    """The cache of P prompts without their last token, padded on the right: nothing there sees the padding."""
    device = next(model.parameters()).device
    longest = max(1, *(len(prompt) - 1 for prompt in prompts))
    ids = [[*prompt[:-1], *[pad_id] * (longest + 1 - len(prompt))] for prompt in prompts]
    cache = DynamicCache()
    with torch.no_grad(), sdpa_kernel(KERNELS):
        model(input_ids=torch.tensor(ids, device=device), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def check_layers(model: nn.Module) -> None:
    """Raises: ValueError if a cache of the model's own holds more than keys and values, of all tokens or a window."""
    for layer in DynamicCache(config=transformers_model(model).config.get_text_config()).layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise ValueError(f"its cache holds a {type(layer).__name__}")


def token_bytes(cache: Cache) -> int:
    """Bytes that a token of one row takes in a cache."""
    return sum(int(states[0, :, 0].nbytes) for layer in cache.layers for states in _states(layer))


def _buffer(states: Tensor, rows: int, room: int) -> Tensor:
    return states.new_zeros(rows, states.shape[1], room, states.shape[3])


def _states(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.keys, layer.values
