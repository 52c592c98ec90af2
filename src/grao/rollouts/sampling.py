"""Keyed draws: uniform numbers by key, and tokens from them by inversion.

On a CPU a cumulative sum over the whole vocabulary is inverted. On a GPU that sum would be a costly pass in double
precision, so sums of blocks come first and then one block; with probabilities rounded down to multiples of 2^-46 all
these sums are exact, so that the token depends on nothing but the row's logits and its uniform number.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from grao.rollouts.base import Sampling

_BLOCK = 128
"""Tokens of a block; it divides the usual vocabularies."""
_UNITS = 2.0**46
"""Units of probability in 1. The sum of a row stays below 2^53, up to which whole numbers are exact in float64."""


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
    on_cpu = logits.device.type == "cpu"
    invert = _invert if on_cpu else _invert_in_blocks
    scaled = logits if temperature == 1 else logits.float() / temperature
    probabilities = torch.softmax(scaled, dim=-1, dtype=torch.float32)
    if top_p < 1:
        ranked, order = probabilities.sort(dim=-1, descending=True, stable=not on_cpu)
        before = ranked.double().cumsum(dim=-1) - ranked
        rank = invert(ranked * (before < top_p), uniforms)
        return order.gather(-1, rank[:, None]).squeeze(-1)
    return invert(probabilities, uniforms)


def token_logps(logits: Tensor, token: Tensor) -> Tensor:
    """(rows,), log-probabilities of (rows,) tokens at temperature 1, of (rows, V) logits."""
    if logits.device.type == "cpu":
        scores = logits.float()
        return scores.gather(-1, token[:, None]).squeeze(-1) - scores.logsumexp(-1)
    # One kernel on a GPU, where the sum above takes five.
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32).gather(-1, token[:, None]).squeeze(-1)


def _invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Index of the first cumulative weight above uniform * total, (rows,). Never an index of weight 0."""
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1]
    target = torch.minimum(uniforms * total, total.nextafter(torch.zeros_like(total)))  # rounding must not reach it
    index = torch.searchsorted(cumulative, target[:, None], right=True).squeeze(-1)
    return index.clamp(max=weights.shape[-1] - 1)  # with NaN among the weights it lies behind the last


def _invert_in_blocks(weights: Tensor, uniforms: Tensor) -> Tensor:
    """As `_invert`, with weights in whole units: first the block that reaches the target, then the token in it."""
    rows, size = weights.shape
    units = (weights * _UNITS).floor_()
    whole = F.pad(units, (0, -size % _BLOCK)) if size % _BLOCK else units  # padding with nothing would copy
    blocks = whole.view(rows, -1, _BLOCK)
    sums = blocks.sum(dim=-1, dtype=torch.float64)
    cumulative = sums.cumsum(dim=-1)
    total = cumulative[:, -1:]
    target = torch.minimum((uniforms[:, None] * total).floor_(), total - 1)
    block = torch.searchsorted(cumulative, target, right=True).clamp_(max=sums.shape[-1] - 1)
    rest = target - (cumulative - sums).gather(-1, block)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, _BLOCK)).squeeze(1).cumsum(dim=-1, dtype=torch.float64)
    index = block * _BLOCK + torch.searchsorted(inside, rest, right=True)
    return index.squeeze(-1).clamp_(max=size - 1)  # as in `_invert`


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
