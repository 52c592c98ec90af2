"""Slots: completions that are sampled side by side, each at its own position, in tensors at fixed addresses.

A slot holds one completion. At first the cache holds its prompt's keys and values at positions 0 to P - 2, and its next
input is the prompt's last token. A step feeds every slot's next input to the model, writes its keys and values at the
slot's position, and draws the next token. All state is updated in place and nothing is read back to the CPU, so that a
step can be captured as a CUDA graph and replayed.
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
    """A cache layer of transformers over the key and value buffers of R slots with room for L tokens.

    Args:
        keys: (R, heads, L, D). Masked entries must be finite too (0 or from earlier completions), since 0 * inf is NaN.
        values: as `keys`.
        rows: (R,), 0 to R - 1.
        position: (R,), where each slot writes its next token; advanced by the caller.
    """

    keys: Tensor
    values: Tensor
    is_sliding = False
    is_compileable = True

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, position: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = keys, values
        self._target = (rows, slice(None), position)
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the buffers exist already."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write (R, heads, 1, D) keys and values, each slot's at its own position; return the buffers."""
        self.keys[self._target] = key_states.squeeze(2).to(self.keys.dtype)
        self.values[self._target] = value_states.squeeze(2).to(self.values.dtype)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Return 0: every slot has a length of its own, so positions and masks are passed to the model explicitly."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the length of the buffer, and offset 0."""
        return self.keys.shape[2], 0

    def get_max_length(self) -> int:
        """Return the length of the buffer."""
        return self.keys.shape[2]


class Slots:
    """R slots with room for L tokens each, and the step that advances each by one token.

    Args:
        model: the model that samples.
        prefix: the cache of any prompt, from which shapes and dtypes are taken.
        rows: number of slots, R.
        room: tokens of prompt and completion per slot, L.
        longest: most tokens of a completion.
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
        """(R,), whether a slot has an unfinished completion. If none has, a step changes nothing that is ever read."""
        self._stopped = torch.zeros_like(self.alive)
        self._uniforms = torch.zeros(rows, longest, dtype=torch.float64, device=device)
        # Slots without an unfinished completion write to the last column: a captured step cannot skip rows.
        self._tokens = torch.full((rows, longest + 1), pad_id, device=device)
        self._logps = torch.zeros(rows, longest + 1, device=device)
        self.counts: dict[int, int] = {}
        """Occupied slot -> number of tokens sampled in it by the last `harvest`."""

    def clear(self) -> None:
        """Empty all slots."""
        self.alive.zero_()
        self._position.zero_()
        self.counts = {}

    def fill(self, slots: Sequence[int], prompt: TokenIds, prefix: tuple[Cache, int], uniforms: Tensor) -> None:
        """Begin a completion of the same prompt in each of N free slots.

        Args:
            slots: indices of the N slots.
            prompt: its token ids.
            prefix: a cache, and the row in it that holds the prompt without its last token (`prefill`).
            uniforms: (N, T), uniform numbers of each completion.
        """
        target, width = torch.tensor(list(slots), device=self._token.device), len(prompt) - 1
        cache, row = prefix
        for buffers, layer in zip(self._buffers, cache.layers, strict=True):
            for buffer, states in zip(buffers, _states(layer), strict=True):
                buffer[target, :, :width] = states[row, :, :width]
        self._token[target], self._position[target] = prompt[-1], width
        self._count[target], self.alive[target] = 0, True
        self._uniforms[target, : uniforms.shape[1]] = uniforms.to(self._uniforms.device)
        self.counts |= dict.fromkeys(slots, 0)

    def harvest(self, rows: int) -> dict[int, Answer]:
        """Return the finished completions of the first `rows` slots by slot, and free these slots.

        Waits for the GPU.

        Raises:
            BrokenNumbersError: if logits were not finite.
        """
        alive, count, stopped = torch.stack([self.alive[:rows], self._count[:rows], self._stopped[:rows]]).tolist()
        ended = [slot for slot in self.counts if not alive[slot]]
        self.counts = {slot: count[slot] for slot in self.counts if alive[slot]}
        self._position.mul_(self.alive)  # free slots still write to the cache: position 0 is within any room
        if not ended:
            return {}
        longest = max(count[slot] for slot in ended)
        tokens, logps = self._tokens[ended, :longest].tolist(), self._logps[ended, :longest].cpu()
        if not bool(logps.isfinite().all()):  # values left from earlier completions were checked at their harvest
            raise BrokenNumbersError("the model's logits are not finite, so nothing can be sampled from it")
        return {
            slot: Answer(tuple(ids[: count[slot]]), truncated=not stopped[slot], logps=tuple(scores[: count[slot]]))
            for slot, ids, scores in zip(ended, tokens, logps.tolist(), strict=True)
        }

    def compact(self, slots: Sequence[int]) -> None:
        """Move the occupied slots to the front.

        Args:
            slots: indices of all occupied slots, in ascending order.
        """
        source, occupied = torch.tensor(list(slots), device=self._token.device), len(slots)
        state = (
            self._token, self._position, self._count, self.alive, self._stopped, self._uniforms, self._tokens,
            self._logps,
        )  # fmt: skip
        for tensor in (*state, *(buffer for pair in self._buffers for buffer in pair)):
            tensor[:occupied] = tensor[source]
        self.alive[occupied:] = False
        self._position[occupied:] = 0
        self.counts = {row: self.counts[slot] for row, slot in enumerate(slots)}

    @torch.no_grad()
    def step(self, rows: int, room: int, sampling: Sampling) -> None:
        """Advance each of the first `rows` slots by one token.

        Args:
            rows: number of slots.
            room: cache positions to attend to; all these slots stand below it.
            sampling: settings of the rollout.
        """
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
        stops = (token[:, None] == self.stop_ids).any(dim=1)  # torch.isin would synchronise with the CPU
        self._stopped[:rows].copy_(stops.where(alive, self._stopped[:rows]))
        self._token[:rows].copy_(token.where(alive, self._token[:rows]))
        position.add_(alive)
        count.add_(alive)
        alive.logical_and_(~stops & (count < last))


def slot_masks(model: nn.Module, position: Tensor, room: int, dtype: torch.dtype) -> Tensor | dict[str, Tensor]:
    """Return the additive attention masks of the slots' next tokens.

    Args:
        model: gives the types of layers and the sliding window.
        position: (R,), position of each slot's next token.
        room: cache positions that are attended to, L.
        dtype: of the masks.

    Returns:
        (R, 1, 1, L), 0 on visible tokens; a mask by layer type if the model has several types.

    Raises:
        ValueError: if the model has layers other than full or sliding-window attention.
    """
    config = transformers_model(model).config.get_text_config()
    window: int | None = getattr(config, "sliding_window", None)
    kinds: set[str] = set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
    if getattr(config, "attention_chunk_size", None):
        kinds.add("chunked_attention")
    if not kinds <= {"full_attention", "sliding_attention"}:
        raise ValueError(f"it has layers of the types {', '.join(sorted(kinds))}")
    distance = position[:, None] - torch.arange(room, device=position.device)
    visible = {"full_attention": distance >= 0}
    if "sliding_attention" in kinds and window:
        visible["sliding_attention"] = visible["full_attention"] & (distance < window)
    masks = {
        kind: torch.zeros(distance.shape, dtype=dtype, device=distance.device).masked_fill_(
            ~visible[kind], torch.finfo(dtype).min
        )[:, None, None]
        for kind in kinds
    }
    return masks if len(kinds) > 1 else masks[kinds.pop()]


def prefill(model: nn.Module, prompts: Sequence[Sequence[int]], pad_id: int) -> Cache:
    """Return the cache of P prompts without their last token.

    Prompts are padded on the right, where causal attention keeps the padding from affecting any real token.

    Args:
        model: in evaluation mode.
        prompts: P token sequences.
        pad_id: any valid token.
    """
    device = next(model.parameters()).device
    longest = max(1, *(len(prompt) - 1 for prompt in prompts))
    ids = [[*prompt[:-1], *[pad_id] * (longest + 1 - len(prompt))] for prompt in prompts]
    cache = DynamicCache()
    with torch.no_grad(), sdpa_kernel(KERNELS):
        model(input_ids=torch.tensor(ids, device=device), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def check_layers(model: nn.Module) -> None:
    """Check that the model's cache holds only keys and values, of all tokens or of a sliding window.

    Raises:
        ValueError: if it does not.
    """
    for layer in DynamicCache(config=transformers_model(model).config.get_text_config()).layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
            raise ValueError(f"its cache holds a {type(layer).__name__}")


def token_bytes(cache: Cache) -> int:
    """Return the bytes of one token of one row in a cache."""
    return sum(int(states[0, :, 0].nbytes) for layer in cache.layers for states in _states(layer))


def _buffer(states: Tensor, rows: int, room: int) -> Tensor:
    return states.new_zeros(rows, states.shape[1], room, states.shape[3])


def _states(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.keys, layer.values
