"""The output layer in chunks: log-probabilities of given tokens without ever holding (T, V) logits.

The loss is a sum of log-probabilities with constant coefficients, so its gradient is known as soon as a chunk's
probabilities are: it is formed in the forward pass, and the chunk's logits are gone before the next begins.
Left out: losses that are not linear in the log-probabilities; they need the logits a second time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

_LOGITS_CPU, _LOGITS, _ROWS = 1 << 21, 1 << 26, 64
"""Logits held at a time on a CPU and elsewhere, but so many rows at least: fewer make the weight's gradient slow."""

Readout = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(1, N, D) hidden states, (V, D) weight, (V,) bias -> what the model returns in place of its logits."""


@contextmanager
def output_layer_as(model: PreTrainedModel, readout: Readout) -> Iterator[None]:
    """Inside, the model's forward ends with `readout` in place of its output layer.

    The call stays within the forward of the wrapped model, where sharded weights are whole.
    """
    layer: Any = model.get_output_embeddings()
    layer.forward = lambda hidden: readout(hidden, layer.weight, layer.bias)
    try:
        yield
    finally:
        del layer.forward


def linear_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, coefficients: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """-sum_n c_n * log p(target_n), differentiable, and what it was made of.

    Args:
        hidden: (N, D), the states that predict the targets.
        weight: (V, D).
        bias: (V,) or None.
        targets: (N,), token ids.
        coefficients: (N,), constants.

    Returns:
        The loss, the log-probabilities (N,) and the entropies (N,) in nats, the last two without gradient.
    """
    return _LinearLoss.apply(hidden, weight, bias, targets, coefficients)  # type: ignore[no-any-return, no-untyped-call]


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, coefficients: Tensor):  # type: ignore[no-untyped-def]
        precise = torch.promote_types(hidden.dtype, torch.float32)
        logps, entropies = hidden.new_empty(2, len(hidden), dtype=precise)
        gradients = [
            torch.zeros_like(value, dtype=precise) if needed and value is not None else None
            for value, needed in zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
        ]
        step = max(_ROWS, (_LOGITS_CPU if hidden.device.type == "cpu" else _LOGITS) // len(weight))
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
            logits = F.linear(hidden[rows], weight, bias).to(precise)  # (n, V)
            target = targets[rows, None]
            normaliser = logits.logsumexp(dim=-1, keepdim=True)
            logps[rows] = (logits.gather(-1, target) - normaliser).squeeze(-1)
            probabilities = logits.sub_(normaliser).exp()
            entropies[rows] = -torch.linalg.vecdot(probabilities, logits)
            del logits
            if any(gradient is not None for gradient in gradients):
                c = coefficients[rows, None].to(precise)
                by_logits = probabilities.mul_(c).scatter_add_(-1, target, -c)  # c * (p - onehot)
                _collect(gradients, rows, by_logits, hidden[rows], weight)
        ctx.gradients = gradients
        ctx.dtypes = [value.dtype if value is not None else None for value in (hidden, weight, bias)]
        ctx.mark_non_differentiable(logps, entropies)
        return -(coefficients * logps).sum(), logps, entropies

    @staticmethod
    def backward(ctx: Any, by_loss: Tensor, *unused: Tensor):  # type: ignore[no-untyped-def]
        gradients, ctx.gradients = ctx.gradients, None  # nothing holds on to them, so that they become .grad uncopied
        scaled = [
            None if gradient is None else gradient.mul_(by_loss).to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        ]
        return *scaled, None, None


def _collect(gradients: list[Tensor | None], rows: slice, by_logits: Tensor, hidden: Tensor, weight: Tensor) -> None:
    """Adds one chunk's share to the gradients that are wanted, in the precision of the weights' products."""
    by_hidden, by_weight, by_bias = gradients
    product = by_logits.to(weight.dtype)
    if by_hidden is not None:
        by_hidden[rows] = product @ weight
    if by_weight is not None:
        if by_weight.dtype == hidden.dtype:
            by_weight.addmm_(product.t(), hidden)
        else:
            by_weight += product.t() @ hidden
    if by_bias is not None:
        by_bias += by_logits.sum(dim=0)
