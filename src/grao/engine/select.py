"""Which way through the model is taken: `packed` where it gives the same numbers for the model, else `padded`."""

import torch
from torch import nn
from transformers import PreTrainedModel

from grao.engine import attention
from grao.engine.interface import Engine, transformers_model
from grao.engine.packed import PackedEngine
from grao.engine.padded import PaddedEngine
from grao.types import Answer, Batch, Encoded, Example, Group

_TOLERANCE, _TOLERANCE_HALF = 1e-3, 5e-2
"""Nats per token by which the engines may differ, in single and in half precision."""


def engine_for(model: nn.Module, pad_id: int) -> Engine:
    """The packed engine if this model gives the same numbers with it, else the padded one.

    The model's attention is switched on the way, on a GPU to FlexAttention if that works, else to the packed
    attention by segments; for sampling both are plain SDPA.
    """
    inner, padded = transformers_model(model), PaddedEngine(pad_id)
    if not _eligible(inner):
        return padded
    before = inner.config._attn_implementation
    for name in (attention.FLEX, attention.NAME) if inner.device.type == "cuda" else (attention.NAME,):
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
        and config._attn_implementation in ("sdpa", attention.NAME, attention.FLEX)
        and kinds <= {"full_attention", "sliding_attention"}
        and not getattr(config, "attention_chunk_size", None)
    )


def _agree(model: nn.Module, plain: Engine, fast: Engine) -> bool:
    """Whether two engines see the same on a few random sequences, gradient included, also while training."""
    config = transformers_model(model).config.get_text_config()
    draw = torch.Generator().manual_seed(0)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, config.vocab_size, (length,), generator=draw).tolist())

    prompts = [Encoded(Example("", "", None, {}, 0), "", tokens(length), "", ()) for length in (7, 3)]
    answers = [Answer(tokens(length), weight=weight) for length, weight in ((5, 1.0), (1, -0.5), (9, 0.25), (4, 2.0))]
    batch = Batch((Group(prompts[0], tuple(answers[:3]), 0), Group(prompts[1], tuple(answers[3:]), 1)))
    weight = next((parameter for parameter in model.parameters() if parameter.requires_grad), None)
    training = model.training
    try:
        model.eval()
        seen = [engine.run(model, batch) for engine in (plain, fast)]
        slopes = [torch.autograd.grad(shown.loss, weight)[0] for shown in seen] if weight is not None else []
        model.train()
        fast.run(model, batch)  # raises where attention drops out
    finally:
        model.train(training)
    half = torch.finfo(next(model.parameters()).dtype).bits < 32
    tolerance = _TOLERANCE_HALF if half else _TOLERANCE
    gap = max((seen[0].mean - seen[1].mean).abs().max(), (seen[0].loss - seen[1].loss).abs())
    steep = [(slope - slopes[0]).norm() - 2 * tolerance * slopes[0].norm() for slope in slopes]
    return bool(gap < tolerance) and all(bool(excess <= 0) for excess in steep)
