"""Attention over one packed row: it holds each prompt once, and every answer attends to its prompt and to itself.

The row is prompt, answer, answer, ..., next prompt, answer, ... without padding. An answer's positions continue where
its prompt ends, so each sees exactly what it would see alone. Registered with transformers under `NAME`: every model
that uses its attention interface works unchanged, and without a plan (sampling) it is plain SDPA.
On a GPU FlexAttention takes the same plan as one block-sparse kernel, registered under `FLEX`; it has no backward pass
on a CPU. That kernel and its handling of soft caps come from transformers.
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

from grao.engine.interface import sent

NAME, FLEX = "grao_packed", "grao_flex"

_TOGETHER = 384
"""Answers of one prompt go through a call together up to this many tokens: fewer calls for more masked-out scores."""
_UNSUPPORTED = ("softcap", "s_aux", "position_bias")
"""Arguments that change attention scores in ways this function does not."""

M = TypeVar("M")
Part = tuple[int, ...]
"""Lengths of neighbouring answers that are attended in one call."""


@dataclass(frozen=True)
class Segment:
    """A prompt and the answers behind it."""

    prompt: int
    """Tokens of the prompt."""
    parts: tuple[Part, ...]

    @staticmethod
    def of(prompt: int, answers: Sequence[int]) -> "Segment":
        """A prompt of `prompt` tokens, followed by answers of these lengths."""
        parts: list[list[int]] = [[]]
        for answer in answers:
            if parts[-1] and sum(parts[-1]) + answer > _TOGETHER:
                parts.append([])
            parts[-1].append(answer)
        return Segment(prompt, tuple(map(tuple, parts)))


@dataclass(frozen=True)
class RowPlan:
    """A whole row, with the masks that all layers share."""

    segments: tuple[Segment, ...]
    _masks: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def sizes(self) -> Iterator[int]:
        """Tokens of each prompt and each part, in order of the row."""
        for segment in self.segments:
            yield segment.prompt
            yield from map(sum, segment.parts)

    def mask(self, prompt: int, part: Part, window: int | None, like: Tensor) -> Tensor:
        """(sum(part), prompt + sum(part)), 0 where a part's token sees prompt or answer, -inf elsewhere."""
        return self.once((prompt, part, window, like.dtype), lambda: _mask(prompt, part, window, like))

    def once(self, key: tuple[Any, ...], make: Callable[[], M]) -> M:
        """What `make` gives, made once for all layers."""
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
    """An attention function of transformers: (1, heads, T, D) queries, keys and values -> (1, T, heads, D).

    Args:
        plan: the layout of the row; None is plain attention with `attention_mask`.

    Raises:
        ValueError: for dropout, an argument that it does not honour, or a window that is not handed over.
    """
    if plan is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    refused = ["dropout"] * (dropout > 0) + [name for name in _UNSUPPORTED if kwargs.get(name) is not None]
    if refused:
        raise ValueError(f"packed attention does not honour {', '.join(refused)}")

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
    """The sliding window of a layer, None if it looks back all the way.

    Raises:
        ValueError: if the model has a window and leaves it to the mask alone, which a packed row does not use.
    """
    config = getattr(module, "config", None)
    if "sliding_window" not in kwargs and getattr(config, "sliding_window", None):
        raise ValueError("the model does not tell its attention function of the sliding window")
    return kwargs.get("sliding_window")


def _mask(prompt: int, part: Part, window: int | None, like: Tensor) -> Tensor:
    device = like.device
    answer = torch.repeat_interleave(
        sent(part, device), output_size=sum(part)
    )  # which answer each own token belongs to
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
    """As `packed_attention`, but that soft caps and sinks are honoured.

    Raises:
        ValueError: for dropout, or a window that is not handed over.
    """
    if plan is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    mask = block_mask(plan, window_of(module, kwargs), query.device)
    return flex_attention_forward(module, query, key, value, mask, scaling, dropout=dropout, **kwargs)[0], None


def block_mask(plan: RowPlan, window: int | None, device: torch.device) -> BlockMask:
    """Which blocks of a row of T tokens see which: the same for all heads and layers, made once a row and window."""

    def make() -> BlockMask:
        group, answer, position = plan.once(("places",), lambda: _places(plan, device))

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            own = (answer[key] == 0) | (answer[key] == answer[query])
            seen = (group[key] == group[query]) & own & (position[key] <= position[query])
            return seen & (position[query] - position[key] < window) if window else seen

        compiled, size = device.type == "cuda", len(group)
        return create_block_mask(sees, None, None, size, size, device=device, _compile=compiled)

    return plan.once(("blocks", window), make)


def _places(plan: RowPlan, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(T,) each: the segment of a token, its answer there (0: the prompt), its position."""
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
    return sent(groups, device), sent(answers, device), sent(positions, device)


for _name, _function in ((NAME, packed_attention), (FLEX, flex_packed_attention)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, sdpa_mask)
