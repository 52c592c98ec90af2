"""Keyed sampling: uniform numbers from keys, and tokens from uniform numbers by inverting the cumulative distribution.

On a CPU the cumulative sum over the full vocabulary is computed. On a GPU that would be a slow double-precision pass,
so blocks are summed first, and then only the block that holds the token is searched. Probabilities are rounded down to
multiples of 2^-46 there, which makes all sums exact: the result depends on the row's logits and uniform number only,
not on the order of a parallel sum.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from grao.rollouts.base import Sampling

_BLOCK = 128
"""Tokens of a block; it divides most vocabulary sizes."""
_UNITS = 2.0**46
"""Probability is counted in units of 2^-46. A row's sum stays below 2^53, where integers are exact in float64."""


def draw_tokens(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> Tensor:
    """Draw one token per row: the first whose cumulative probability exceeds the row's uniform number.

    Args:
        logits: (rows, V).
        uniforms: (rows,) in [0, 1), float64.
        temperature: divides the logits; 0 takes the most likely token.
        top_p: draw from the smallest set of most likely tokens with at least this probability.

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
    """Return the log-probabilities of tokens at temperature 1, in nats.

    Args:
        logits: (rows, V).
        token: (rows,), token ids.

    Returns:
        (rows,).
    """
    if logits.device.type == "cpu":
        scores = logits.float()
        return scores.gather(-1, token[:, None]).squeeze(-1) - scores.logsumexp(-1)
    # On a GPU this is one kernel; the logsumexp above takes five.
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32).gather(-1, token[:, None]).squeeze(-1)


def _invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Return the index of the first cumulative weight above uniform * total, (rows,); never one of weight 0."""
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1]
    # Below the total even after rounding, so that the search ends at a weight above 0.
    target = torch.minimum(uniforms * total, total.nextafter(torch.zeros_like(total)))
    index = torch.searchsorted(cumulative, target[:, None], right=True).squeeze(-1)
    return index.clamp(max=weights.shape[-1] - 1)  # NaN among the weights puts it past the end


def _invert_in_blocks(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Do the same with integer weights: find the block in which the target lies, then the token within it."""
    rows, size = weights.shape
    units = (weights * _UNITS).floor_()
    padded = F.pad(units, (0, -size % _BLOCK)) if size % _BLOCK else units  # padding by 0 would still copy
    blocks = padded.view(rows, -1, _BLOCK)
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
    """Return uniform numbers in [0, 1) for every token of a rollout.

    Args:
        keys: one per prompt, P.
        sampling: gives the number of samples G and of tokens T.

    Returns:
        (P * G, T), float64; row p * G + g comes from the Philox generator keyed by (keys[p], g).
    """
    rows = [
        np.random.Generator(np.random.Philox(key=np.array([key, sample], dtype=np.uint64))).random(
            sampling.max_new_tokens
        )
        for key in keys
        for sample in range(sampling.samples)
    ]
    return torch.from_numpy(np.stack(rows))
