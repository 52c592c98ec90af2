"""FlexAttention over one packed row: the plan of `attention` as one block-sparse kernel, for GPUs.

It has no backward pass on a CPU. The kernel and its handling of soft caps come from transformers.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from grao.core.transfer import sent
from grao.models.attention import RowPlan, window_of

NAME = "grao_flex"


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
    """As `grao.models.attention.packed_attention`, but that soft caps and sinks are honoured.

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
        group, answer, position = _places(plan, device)

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


AttentionInterface.register(NAME, flex_packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
