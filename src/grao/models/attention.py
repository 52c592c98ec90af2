"""Attention over one packed row: a prompt stands there once, and every answer to it attends to it and to itself.

The row is prompt, answer, answer, ..., next prompt, answer, ... without padding. An answer's positions go on where its
prompt ends, so each sees exactly what it would see alone. Registered with transformers under `NAME`: every model that
uses its attention interface works unchanged, and without segments (sampling) it is plain SDPA.
Left out: FlexAttention and variable-length kernels, which would take the same plan on a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "grao_packed"

_UNSUPPORTED = ("softcap", "s_aux", "position_bias")
"""Arguments that change attention scores in ways this function does not."""


@dataclass(frozen=True)
class Segment:
    """A prompt and its answers as places in the row."""

    prompt: slice
    answers: tuple[slice, ...]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Sequence[Segment] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers: (1, heads, T, D) queries, keys and values -> (1, T, heads, D).

    Args:
        segments: the row's plan, which covers it without a gap; None is plain attention with `attention_mask`.

    Raises:
        ValueError: for dropout, or an argument that it does not honour.
    """
    if segments is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    refused = ["dropout"] * (dropout > 0) + [name for name in _UNSUPPORTED if kwargs.get(name) is not None]
    if refused:
        raise ValueError(f"packed attention does not honour {', '.join(refused)}")

    window = kwargs.get("sliding_window")
    repeats = query.shape[1] // key.shape[1]
    key, value = (heads.repeat_interleave(repeats, dim=1) if repeats > 1 else heads for heads in (key, value))
    parts = []
    for segment in segments:
        prompt = segment.prompt
        for own in (prompt, *segment.answers):
            seen = (prompt,) if own is prompt else (prompt, own)
            keys, values = (torch.cat([x[:, :, places] for places in seen], dim=2) for x in (key, value))
            mask = _causal(own.stop - own.start, keys.shape[2], window, query.device)
            parts.append(F.scaled_dot_product_attention(query[:, :, own], keys, values, mask, scale=scaling))
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _causal(length: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """(length, keys) bool: the last `length` of `keys` positions see themselves and what is before, up to `window`."""
    mask = torch.ones(length, keys, dtype=torch.bool, device=device).tril(keys - length)
    return mask.triu(keys - length - window + 1) if window else mask


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
