"""The output layer in chunks: log-probabilities of given tokens without ever holding all (N, V) logits.

If the loss is a sum of log-probabilities with constant coefficients (`linear_loss`), its gradient follows directly from
a chunk's probabilities, so it is computed in the forward pass and the chunk's logits are freed before the next chunk.
Any other loss gets differentiable log-probabilities (`token_logps`), whose backward pass recomputes the logits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

_LOGITS_CPU, _LOGITS, _ROWS = 1 << 21, 1 << 26, 64
"""Logits of a chunk on a CPU and on other devices, and its fewest rows: thin products make the weight gradient slow."""

Readout = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(1, N, D) hidden states, (V, D) weight, (V,) bias -> a tensor that the model returns in place of its logits."""


@contextmanager
def output_layer_as(model: PreTrainedModel, readout: Readout) -> Iterator[None]:
    """Replace the model's output layer by `readout` inside the context.

    `readout` is thus called within the forward pass of the wrapped model, the only time at which FSDP and ZeRO-3 have
    gathered the layer's full weight.

    Args:
        model: whose output layer is a plain linear layer.
        readout: computes the result from hidden states, weight and bias.
    """
    layer: Any = model.get_output_embeddings()
    layer.forward = lambda hidden: readout(hidden, layer.weight, layer.bias)
    try:
        yield
    finally:
        del layer.forward


def token_logps(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return differentiable log p(target_n), and the entropies without gradient.

    Args:
        hidden: (N, D), states that predict the targets.
        weight: (V, D), of the output layer.
        bias: (V,) or None.
        targets: (N,), token ids.

    Returns:
        Log-probabilities and entropies in nats, (N,) each.
    """
    return _TokenLogps.apply(hidden, weight, bias, targets)  # type: ignore[no-any-return, no-untyped-call]


def linear_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, coefficients: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the differentiable loss -sum_n c_n * log p(target_n).

    Args:
        hidden: (N, D), states that predict the targets.
        weight: (V, D), of the output layer.
        bias: (V,) or None.
        targets: (N,), token ids.
        coefficients: (N,), the constants c_n.

    Returns:
        The loss, the log-probabilities (N,) and the entropies (N,) in nats, the last two without gradient.
    """
    return _LinearLoss.apply(hidden, weight, bias, targets, coefficients)  # type: ignore[no-any-return, no-untyped-call]


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, coefficients: Tensor):  # type: ignore[no-untyped-def]
        logps, entropies = _empty(hidden)
        gradients = _gradients((hidden, weight, bias), ctx.needs_input_grad)
        wanted = any(gradient is not None for gradient in gradients)
        for rows in _chunks(hidden, weight):
            probabilities, logps[rows], entropies[rows], _ = _softmax(hidden[rows], weight, bias, targets[rows])
            if wanted:
                _collect(gradients, rows, probabilities, targets[rows], coefficients[rows], hidden[rows], weight)
        ctx.gradients, ctx.dtypes = gradients, _dtypes(hidden, weight, bias)
        ctx.mark_non_differentiable(logps, entropies)
        return -(coefficients * logps).sum(), logps, entropies

    @staticmethod
    def backward(ctx: Any, by_loss: Tensor, *unused: Tensor):  # type: ignore[no-untyped-def]
        gradients, ctx.gradients = ctx.gradients, None  # drop this reference, so that autograd need not copy them
        scaled = [
            None if gradient is None else gradient.mul_(by_loss).to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        ]
        return *scaled, None, None


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor):  # type: ignore[no-untyped-def]
        logps, entropies = _empty(hidden)
        normalisers = torch.empty_like(logps)
        for rows in _chunks(hidden, weight):
            _, logps[rows], entropies[rows], normalisers[rows] = _softmax(hidden[rows], weight, bias, targets[rows])
        ctx.save_for_backward(hidden, weight, bias, targets, normalisers)
        ctx.precision = _precision(hidden)
        ctx.mark_non_differentiable(entropies)
        return logps, entropies

    @staticmethod
    def backward(ctx: Any, by_logps: Tensor, *unused: Tensor):  # type: ignore[no-untyped-def]
        hidden, weight, bias, targets, normalisers = ctx.saved_tensors
        gradients = _gradients((hidden, weight, bias), ctx.needs_input_grad)
        with torch.autocast(**ctx.precision):  # as in the forward pass, so that the same logits are recomputed
            for rows in _chunks(hidden, weight):
                logits = F.linear(hidden[rows], weight, bias).to(normalisers.dtype)
                probabilities = logits.sub_(normalisers[rows, None]).exp_()
                _collect(gradients, rows, probabilities, targets[rows], -by_logps[rows], hidden[rows], weight)
        dtypes = _dtypes(hidden, weight, bias)
        return *(
            None if gradient is None else gradient.to(dtype) for gradient, dtype in zip(gradients, dtypes, strict=True)
        ), None


def _empty(hidden: Tensor) -> Tensor:
    """Return an empty (2, N) tensor for log-probabilities and entropies."""
    return hidden.new_empty(2, len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))


def _gradients(inputs: tuple[Tensor, Tensor, Tensor | None], needed: tuple[bool, ...]) -> list[Tensor | None]:
    """Return a zero tensor for each input that needs a gradient, else None."""
    precise = torch.promote_types(inputs[0].dtype, torch.float32)
    return [
        torch.zeros_like(value, dtype=precise) if wanted and value is not None else None
        for value, wanted in zip(inputs, needed, strict=False)
    ]


def _dtypes(*inputs: Tensor | None) -> list[torch.dtype | None]:
    return [None if value is None else value.dtype for value in inputs]


def _precision(hidden: Tensor) -> dict[str, Any]:
    """Return the current mixed-precision setting as arguments of `torch.autocast`."""
    kind = hidden.device.type
    return {"device_type": kind, "dtype": torch.get_autocast_dtype(kind), "enabled": torch.is_autocast_enabled(kind)}


def tile_bytes(weight: Tensor, tokens: int, half: bool, cpu: bool) -> int:
    """Return the peak memory of the output layer in bytes.

    Counted are a chunk's logits, log-probabilities and probabilities and, if the weight is trained, its gradient: the
    sum in single precision and the product that is added to it.

    Args:
        weight: (V, D), of the output layer.
        tokens: that are scored.
        half: whether products are computed in half precision.
        cpu: whether the layer runs on a CPU.
    """
    logits = min(tokens, _rows_at_once(weight, cpu)) * len(weight)
    width = 2 if half else weight.itemsize
    gradient = weight.numel() * (4 + width) if weight.requires_grad else 0
    return logits * (width + 8) + gradient


def _rows_at_once(weight: Tensor, cpu: bool) -> int:
    return max(_ROWS, (_LOGITS_CPU if cpu else _LOGITS) // len(weight))


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    """Yield the rows of each chunk."""
    step = _rows_at_once(weight, hidden.device.type == "cpu")
    for start in range(0, len(hidden), step):
        yield slice(start, start + step)


def _softmax(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a chunk's probabilities (n, V), log-probabilities of the targets, entropies and normalisers, (n,) each."""
    logits = F.linear(hidden, weight, bias)
    all_logps = logits.log_softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    logps = all_logps.gather(-1, targets[:, None]).squeeze(-1)
    normalisers = logits.gather(-1, targets[:, None]).squeeze(-1) - logps
    del logits
    probabilities = all_logps.exp()
    entropies = -torch.linalg.vecdot(probabilities, all_logps)
    return probabilities, logps, entropies, normalisers


def _collect(
    gradients: list[Tensor | None],
    rows: slice,
    probabilities: Tensor,
    targets: Tensor,
    coefficients: Tensor,
    hidden: Tensor,
    weight: Tensor,
) -> None:
    """Add one chunk's gradient of -sum_n c_n * log p(target_n) to `gradients`; overwrites `probabilities`."""
    by_hidden, by_weight, by_bias = gradients
    c = coefficients[:, None].to(probabilities)
    by_logits = probabilities.mul_(c).scatter_add_(-1, targets[:, None], -c)  # c * (p - onehot)
    kind, mixed = hidden.device.type, _precision(hidden)
    half = mixed["enabled"] and mixed["dtype"] is torch.bfloat16  # small probabilities underflow in float16
    half = half and weight.dtype is not torch.float64  # autocast leaves double precision alone
    product = by_logits.to(torch.bfloat16 if half else weight.dtype)
    with torch.autocast(kind, torch.bfloat16, enabled=half):
        if by_hidden is not None:
            by_hidden[rows] = product @ weight
        if by_weight is not None:
            if by_weight.dtype == hidden.dtype == product.dtype:
                by_weight.addmm_(product.t(), hidden)  # in place saves a copy, but is not subject to autocast
            else:
                by_weight += product.t() @ hidden.to(product.dtype)
    if by_bias is not None:
        by_bias += by_logits.sum(dim=0)
