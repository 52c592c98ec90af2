"""Floating-point operations (FLOPs) of a pass through a model, and the device's matmul throughput.

Only useful work is counted, with each prompt once per group whatever the engine: multiplications and additions with the
weights (2 per weight and token; of experts only those that a token is routed to) and in attention.
Left out: norms, activations, rotary embeddings and the optimiser, a few percent together.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from grao.engine.interface import transformers_model
from grao.engine.quantized import elements


@dataclass(frozen=True)
class Work:
    """Token counts of some groups, each a prompt with its answers."""

    tokens: int
    """Tokens that go through the layers."""
    predicted: int
    """Tokens that the output layer scores."""
    pairs: int
    """Pairs of a token and a token that it attends to."""

    @staticmethod
    def of(groups: Iterable[tuple[int, list[int]]]) -> "Work":
        """Count the tokens of groups given as (prompt length, answer lengths)."""
        tokens = predicted = pairs = 0
        for prompt, answers in groups:
            tokens += prompt + sum(answers)
            predicted += sum(answers)
            pairs += prompt * (prompt + 1) // 2 + sum(own * prompt + own * (own + 1) // 2 for own in answers)
        return Work(tokens, predicted, pairs)


@dataclass(frozen=True)
class Cost:
    """FLOPs of one forward pass of a model, per unit of `Work`."""

    token: float
    """FLOPs per token in the layers."""
    prediction: float
    """FLOPs per token that the output layer scores."""
    pair: float
    """FLOPs per pair of tokens in attention."""
    backward: float
    """Cost of a backward pass in forward passes: 2, or close to 1 if only an adapter is trained."""

    @staticmethod
    def of(model: nn.Module) -> "Cost":
        """Derive the cost from the shapes of a model's weights."""
        inner = transformers_model(model)
        config: Any = inner.config.get_text_config()
        experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 1
        used = (getattr(config, "num_experts_per_tok", None) or 1) / experts
        output = inner.get_output_embeddings().weight
        tables = {id(output), id(inner.get_input_embeddings().weight)}
        weights = trained = 0.0
        for name, parameter in inner.named_parameters():
            if parameter.dim() > 1 and id(parameter) not in tables:
                count = elements(parameter) * (used if ".experts." in name else 1.0)
                weights += count
                trained += count * parameter.requires_grad
        heads = getattr(config, "num_attention_heads", 0)  # 0: the model has no attention
        width = getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1)
        return Cost(
            token=2 * weights,
            prediction=2 * output.numel(),
            pair=4 * config.num_hidden_layers * heads * width,
            backward=1 + trained / max(weights, 1.0),
        )

    def forward(self, work: Work) -> float:
        """Return the FLOPs of a forward pass."""
        return self.token * work.tokens + self.prediction * work.predicted + self.pair * work.pairs

    def update(self, work: Work) -> float:
        """Return the FLOPs of a forward and a backward pass."""
        return (1 + self.backward) * self.forward(work)


@cache
def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the best FLOP/s that this device reaches in a large matrix product, measured once per process."""
    size = 1024 if device.type == "cpu" else 8192
    left, right = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(6):
        begin = time.perf_counter()
        (left @ right)[0, 0].item()  # waits for the result
        best = max(best, 2 * size**3 / (time.perf_counter() - begin))
    return best
