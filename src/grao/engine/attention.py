"""Attention over a packed row that holds each prompt once: every answer attends to its prompt and to itself.

The row is prompt, answer, answer, ..., next prompt, answer, ... without padding. The position ids of every answer
continue from the end of its prompt, so each answer gets exactly the attention it would get in a row of its own.

There are two implementations of the same plan, both registered with transformers' attention interface, so that models
using it work unchanged. `NAME` calls SDPA segment by segment. `FLEX` runs FlexAttention as one block-sparse kernel; it
is for GPUs only, because FlexAttention has no backward pass on a CPU. Without a plan (in sampling) both are plain SDPA.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from grao.engine.interface import to_device

NAME, FLEX = "grao_packed", "grao_flex"

_PART_TOKENS = 384
"""Answers to one prompt share an SDPA call up to this many tokens: fewer calls, at the price of masked-out scores."""
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")
"""Arguments that change attention scores and that segment-wise SDPA cannot apply."""

M = TypeVar("M")
Part = tuple[int, ...]
"""Lengths of adjacent answers that share an attention call."""


@dataclass(frozen=True)
class Segment:
    """A prompt and the answers that follow it in the row."""

    prompt: int
    """Tokens of the prompt."""
    parts: tuple[Part, ...]

    @staticmethod
    def of(prompt: int, answers: Sequence[int]) -> "Segment":
        """Group the answers to a prompt into parts.

        Args:
            prompt: length of the prompt in tokens.
            answers: length of each answer in tokens, in order of the row.
        """
        parts: list[list[int]] = [[]]
        for answer in answers:
            if parts[-1] and sum(parts[-1]) + answer > _PART_TOKENS:
                parts.append([])
            parts[-1].append(answer)
        return Segment(prompt, tuple(map(tuple, parts)))


@dataclass(frozen=True)
class RowPlan:
    """The layout of a row, with a cache of the masks that all layers share."""

    segments: tuple[Segment, ...]
    _masks: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def sizes(self) -> Iterator[int]:
        """Yield the number of tokens of each prompt and each part, in order of the row."""
        for segment in self.segments:
            yield segment.prompt
            yield from map(sum, segment.parts)

    def mask(self, prompt: int, part: Part, window: int | None, like: Tensor) -> Tensor:
        """Return the additive mask of a part, 0 where a token may attend and -inf elsewhere.

        Args:
            prompt: tokens of the prompt that the part attends to.
            part: lengths of its answers.
            window: sliding window in tokens, or None.
            like: gives dtype and device.

        Returns:
            (sum(part), prompt + sum(part)).
        """
        return self.cached((prompt, part, window, like.dtype), lambda: _mask(prompt, part, window, like))

    def cached(self, key: tuple[Any, ...], make: Callable[[], M]) -> M:
        """Return the result of `make`, which is called once per row and key, not once per layer."""
        if key not in self._masks:
            self._masks[key] = make()
        mask: M = self._masks[key]
        return mask


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    plan: RowPlan | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend over a packed row with one SDPA call per prompt and per part; an attention function of transformers.

    Args:
        module: the attention layer.
        query: (1, heads, T, D).
        key: (1, key heads, T, D).
        value: as `key`.
        attention_mask: used only without a plan.
        dropout: must be 0 with a plan.
        scaling: of the scores; None is 1 / sqrt(D).
        plan: the layout of the row; None is plain SDPA with `attention_mask`.
        **kwargs: further arguments of the model.

    Returns:
        (1, T, heads, D), and None in place of attention weights.

    Raises:
        ValueError: for dropout, an argument that is not supported, or a sliding window that is not passed on.
    """
    if plan is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    unsupported = ["dropout"] * (dropout > 0) + [name for name in _UNSUPPORTED if kwargs.get(name) is not None]
    if unsupported:
        raise ValueError(f"packed attention does not support {', '.join(unsupported)}")

    window = window_of(module, kwargs)
    repeats = query.shape[1] // key.shape[1]
    key, value = (heads.repeat_interleave(repeats, dim=1) if repeats > 1 else heads for heads in (key, value))
    sizes = list(plan.sizes())
    pieces = zip(*(heads.split(sizes, dim=2) for heads in (query, key, value)), strict=True)
    outputs = []
    for segment in plan.segments:
        q, prompt_key, prompt_value = next(pieces)
        mask = plan.mask(0, (segment.prompt,), window, query) if window and segment.prompt > window else None
        outputs.append(
            F.scaled_dot_product_attention(q, prompt_key, prompt_value, mask, is_causal=mask is None, scale=scaling)
        )
        for part in segment.parts:
            q, own_key, own_value = next(pieces)
            keys, values = torch.cat([prompt_key, own_key], dim=2), torch.cat([prompt_value, own_value], dim=2)
            mask = plan.mask(segment.prompt, part, window, query)
            outputs.append(F.scaled_dot_product_attention(q, keys, values, mask, scale=scaling))
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def window_of(module: nn.Module, kwargs: Mapping[str, Any]) -> int | None:
    """Return the sliding window of a layer in tokens, or None for full attention.

    Args:
        module: the attention layer.
        kwargs: arguments that the layer passed to the attention function.

    Raises:
        ValueError: if the model has a window but applies it in the attention mask only, which a packed row ignores.
    """
    config = getattr(module, "config", None)
    if "sliding_window" not in kwargs and getattr(config, "sliding_window", None):
        raise ValueError("the model does not pass its sliding window to the attention function")
    return kwargs.get("sliding_window")


def _mask(prompt: int, part: Part, window: int | None, like: Tensor) -> Tensor:
    device = like.device
    answer = torch.repeat_interleave(to_device(part, device), output_size=sum(part))  # answer index of each token
    own = torch.cat([torch.arange(length, device=device) for length in part]) + prompt
    position = torch.cat([torch.arange(prompt, device=device), own])
    sees = position[None] <= own[:, None]
    sees[:, prompt:] &= answer[None] == answer[:, None]
    if window:
        sees &= own[:, None] - position[None] < window
    return torch.zeros(sees.shape, dtype=like.dtype, device=device).masked_fill_(~sees, -torch.inf)


def flex_packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    plan: RowPlan | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend over a packed row with one FlexAttention call; soft caps and attention sinks are supported.

    Args:
        module: the attention layer.
        query: (1, heads, T, D).
        key: (1, key heads, T, D).
        value: as `key`.
        attention_mask: used only without a plan.
        dropout: must be 0 with a plan.
        scaling: of the scores; None is 1 / sqrt(D).
        plan: the layout of the row; None is plain SDPA with `attention_mask`.
        **kwargs: further arguments of the model.

    Returns:
        (1, T, heads, D), and None in place of attention weights.

    Raises:
        ValueError: for dropout, or a sliding window that is not passed on.
    """
    if plan is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    mask = block_mask(plan, window_of(module, kwargs), query.device)
    return flex_attention_forward(module, query, key, value, mask, scaling, dropout=dropout, **kwargs)[0], None


def block_mask(plan: RowPlan, window: int | None, device: torch.device) -> BlockMask:
    """Return FlexAttention's block mask of a row; it is made once per row, since all heads and layers share it.

    Args:
        plan: the layout of the row.
        window: sliding window in tokens, or None.
        device: of the row.
    """

    def make() -> BlockMask:
        group, answer, position = plan.cached(("coordinates",), lambda: _coordinates(plan, device))

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            own = (answer[key] == 0) | (answer[key] == answer[query])
            causal = (group[key] == group[query]) & own & (position[key] <= position[query])
            return causal & (position[query] - position[key] < window) if window else causal

        compiled, size = device.type == "cuda", len(group)
        return create_block_mask(sees, None, None, size, size, device=device, _compile=compiled)

    return plan.cached(("blocks", window), make)


def _coordinates(plan: RowPlan, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each token its segment, its answer in the segment (0 is the prompt) and its position; (T,) each."""
    groups: list[int] = []
    answers: list[int] = []
    positions: list[int] = []
    for group, segment in enumerate(plan.segments):
        lengths = [segment.prompt, *(length for part in segment.parts for length in part)]
        for answer, length in enumerate(lengths):
            groups += [group] * length
            answers += [answer] * length
            start = segment.prompt if answer else 0
            positions += range(start, start + length)
    return to_device(groups, device), to_device(answers, device), to_device(positions, device)


for _name, _function in ((NAME, packed_attention), (FLEX, flex_packed_attention)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, sdpa_mask)
