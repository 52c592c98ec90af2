"""Attention over one packed row: a prompt stands there once, and every answer to it attends to it and to itself.

The row is prompt, answer, answer, ..., next prompt, answer, ... without padding. An answer's positions go on where its
prompt ends, so each sees exactly what it would see alone. Registered with transformers under `NAME`: every model that
uses its attention interface works unchanged, and without a plan (sampling) it is plain SDPA.
On a GPU `flex` takes the same plan as one kernel.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "grao_packed"

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
        """Of a prompt of so many tokens and answers of these lengths, in order."""
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
        plan: what stands where in the row; None is plain attention with `attention_mask`.

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
    answer = torch.repeat_interleave(torch.tensor(part, device=device))  # which answer each own token belongs to
    own = torch.cat([torch.arange(length, device=device) for length in part]) + prompt
    position = torch.cat([torch.arange(prompt, device=device), own])
    sees = position[None] <= own[:, None]
    sees[:, prompt:] &= answer[None] == answer[:, None]
    if window:
        sees &= own[:, None] - position[None] < window
    return torch.zeros(sees.shape, dtype=like.dtype, device=device).masked_fill_(~sees, -torch.inf)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
