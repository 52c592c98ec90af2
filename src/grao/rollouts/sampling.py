"""Keyed draws: uniform numbers by key, and tokens from them by inversion."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from grao.rollouts.base import Sampling


def draw_tokens(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token per row by inversion: the first whose cumulative probability exceeds the row's uniform number.

    Args:
        logits: (rows, V).
        uniforms: (rows,) in [0, 1), float64.
        temperature: divides the logits; 0 takes the most likely token.
        top_p: keeps the smallest set of most likely tokens whose probability reaches it.

    Returns:
        (rows,), token ids.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    if top_p < 1:
        ranked, order = probabilities.sort(dim=-1, descending=True)
        before = ranked.double().cumsum(dim=-1) - ranked
        rank = _invert(ranked * (before < top_p), uniforms)
        return order.gather(-1, rank[:, None]).squeeze(-1)
    return _invert(probabilities, uniforms)


def _invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Index of the first cumulative weight above uniform * total, (rows,). Never an index of weight 0."""
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1]
    target = torch.minimum(uniforms * total, total.nextafter(torch.zeros_like(total)))  # rounding must not reach it
    index = torch.searchsorted(cumulative, target[:, None], right=True).squeeze(-1)
    return index.clamp(max=weights.shape[-1] - 1)  # with NaN among the weights it lies behind the last


def keyed_uniforms(keys: Sequence[int], sampling: Sampling) -> Tensor:
    """(P * G, T) uniform numbers in [0, 1), row (b, g) from the counter-based generator keyed by (keys[b], g)."""
    rows = [
        np.random.Generator(np.random.Philox(key=np.array([key, sample], dtype=np.uint64))).random(
            sampling.max_new_tokens
        )
        for key in keys
        for sample in range(sampling.samples)
    ]
    return torch.from_numpy(np.stack(rows))
