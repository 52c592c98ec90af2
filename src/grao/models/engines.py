"""Which way through the model is taken: `packed` where it gives the same numbers for the model, else `padded`."""

import torch
from torch import nn
from transformers import PreTrainedModel

from grao.models import attention, flex
from grao.models.engine import Batch, Engine
from grao.models.packed import PackedEngine, transformers_model
from grao.models.padded import PaddedEngine

_TOLERANCE, _TOLERANCE_HALF = 1e-3, 5e-2
"""Nats per token by which the engines may differ, in single and in half precision."""


def engine_for(model: nn.Module, pad_id: int) -> Engine:
    """The packed engine if this model gives the same numbers with it, else the padded one.

    The model's attention is switched on the way, on a GPU to `grao.models.flex` if that works, else to
    `grao.models.attention`; for sampling both are plain SDPA.
    """
    inner, padded = transformers_model(model), PaddedEngine(pad_id)
    if not _eligible(inner):
        return padded
    before = inner.config._attn_implementation
    for name in (flex.NAME, attention.NAME) if inner.device.type == "cuda" else (attention.NAME,):
        try:
            inner.set_attn_implementation(name)
            if _agree(model, padded, PackedEngine()):
                return PackedEngine()
        except (ValueError, TypeError, RuntimeError, AttributeError, IndexError):
            pass  # an attention that takes no plan, or one that asks for what the packed one does not honour
        inner.set_attn_implementation(before)
    return padded


def _eligible(model: PreTrainedModel) -> bool:
    """A plain output layer, and attention by SDPA that looks back all the way or through a sliding window."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    return (
        type(model.get_output_embeddings()) is nn.Linear
        and config._attn_implementation in ("sdpa", attention.NAME, flex.NAME)
        and kinds <= {"full_attention", "sliding_attention"}
        and not getattr(config, "attention_chunk_size", None)
    )


def _agree(model: nn.Module, one: Engine, other: Engine) -> bool:
    """Whether two engines see the same on a few random sequences, gradient included, also while training."""
    config = transformers_model(model).config.get_text_config()
    draw = torch.Generator().manual_seed(0)

    def some(length: int) -> list[int]:
        tokens: list[int] = torch.randint(0, config.vocab_size, (length,), generator=draw).tolist()
        return tokens

    first, second = some(7), some(3)
    completions = [some(length) for length in (5, 1, 9, 4)]
    batch = Batch([first, first, first, second], completions, [0, 0, 0, 1], torch.tensor([1.0, -0.5, 0.25, 2.0]))
    weight = next((parameter for parameter in model.parameters() if parameter.requires_grad), None)
    training = model.training
    try:
        model.eval()
        seen = [engine.run(model, batch) for engine in (one, other)]
        slopes = [torch.autograd.grad(found.loss, weight)[0] for found in seen] if weight is not None else []
        model.train()
        other.run(model, batch)  # raises where attention drops out
    finally:
        model.train(training)
    half = torch.finfo(next(model.parameters()).dtype).bits < 32
    tolerance = _TOLERANCE_HALF if half else _TOLERANCE
    gap = max((seen[0].mean - seen[1].mean).abs().max(), (seen[0].loss - seen[1].loss).abs())
    steep = [(slope - slopes[0]).norm() - 2 * tolerance * slopes[0].norm() for slope in slopes]
    return bool(gap < tolerance) and all(bool(excess <= 0) for excess in steep)
