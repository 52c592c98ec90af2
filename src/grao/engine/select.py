"""Which way through the model is taken: `packed` where it gives the same numbers for the model, else `padded`."""

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import nn
from transformers import PreTrainedModel

from grao.engine import attention
from grao.engine.interface import Engine, mode, transformers_model
from grao.engine.limits import embedded_tokens
from grao.engine.packed import PackedEngine
from grao.engine.padded import EvenEngine, PaddedEngine, plain_logps
from grao.errors import InputError, one_line
from grao.types import Answer, Batch, Encoded, Example, Group

_TOLERANCE, _TOLERANCE_HALF = 1e-3, 5e-2
"""Nats per token by which the engines may differ, in single and in half precision."""
_ALONE_HALF = 0.5
"""The same in half precision for one text among several and alone, where nothing that is right may be refused."""
_TOGETHER = 1000
"""Tokens that are more than those of the sequences on which this is tried."""


def engine_for(model: nn.Module, pad_id: int) -> Engine:
    """The packed engine if this model gives the same numbers with it, else the padded one.

    The model's attention is switched on the way, on a GPU to FlexAttention if that works, else to the packed
    attention by segments; for sampling both are plain SDPA.

    Raises:
        InputError: if the model cannot be trained on text, or gives other numbers for several texts than for one.
    """
    inner, batch = transformers_model(model), random_batch(model)
    problem = f"model: {type(inner).__name__} cannot be trained"
    try:
        engines = PaddedEngine(pad_id), EvenEngine(pad_id)
        padded = next((engine for engine in engines if _as_alone(model, engine, batch)), None)
        if padded is None:
            raise InputError(f"{problem}: with several texts at once it gives other probabilities than with one")
        before = inner.config._attn_implementation
        names = (attention.FLEX, attention.NAME) if inner.device.type == "cuda" else (attention.NAME,)
        for name in names if _eligible(inner) else ():
            with suppress(ValueError, TypeError, RuntimeError, AttributeError, IndexError):
                # an attention that takes no plan, or one that asks for what the packed one does not honour
                inner.set_attn_implementation(name)
                if _agree(model, padded, PackedEngine(), batch):
                    return PackedEngine()
            inner.set_attn_implementation(before)
        with torch.no_grad(), mode(model, training=True):
            padded.run(model, batch)  # some ask for more than text while training
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        raise error if isinstance(error, InputError) else InputError(f"{problem}: {one_line(error)}") from error
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


def random_batch(
    model: nn.Module,
    prompts: Sequence[int] = (7, 3),
    answers: Sequence[tuple[int, float, int]] = ((5, 1.0, 0), (1, -0.5, 0), (9, 0.25, 0), (4, 2.0, 1)),
) -> Batch:
    """A few random sequences, by default with prompts of two lengths.

    Args:
        model: whose tokens they consist of.
        prompts: their lengths.
        answers: length, weight and number of the prompt of each.
    """
    draw, rows = torch.Generator().manual_seed(0), embedded_tokens(transformers_model(model))

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, rows, (length,), generator=draw).tolist())

    asked = [Encoded(Example("", "", None, {}, 0), "", tokens(length), "", ()) for length in prompts]
    said = [(Answer(tokens(length), weight=weight), owner) for length, weight, owner in answers]
    return Batch(
        tuple(Group(item, tuple(answer for answer, owner in said if owner == n), n) for n, item in enumerate(asked))
    )


def _as_alone(model: nn.Module, engine: Engine, batch: Batch) -> bool:
    """Whether each sequence has the likelihood that the model's own forward pass gives it alone."""
    gaps = []
    with torch.no_grad(), mode(model, training=False):
        for rows in engine.plan(batch, _TOGETHER):
            part = batch.select(rows)
            texts = zip(part.owners, part.answers, engine.run(model, part).mean, strict=True)
            gaps += [mean - plain_logps(model, g.item.prompt_ids, answer.ids).mean() for g, answer, mean in texts]
    return bool(torch.stack(gaps).abs().max() < (_ALONE_HALF if _is_half(model) else _TOLERANCE))


def _is_half(model: nn.Module) -> bool:
    return next(model.parameters()).dtype.itemsize < 4


def _agree(model: nn.Module, plain: Engine, fast: Engine, batch: Batch) -> bool:
    """Whether two engines see the same on a few random sequences, gradient included, also while training."""
    weight = next((parameter for parameter in model.parameters() if parameter.requires_grad), None)
    with mode(model, training=False):
        seen = [engine.run(model, batch) for engine in (plain, fast)]
        slopes = [torch.autograd.grad(shown.loss, weight)[0] for shown in seen] if weight is not None else []
    with mode(model, training=True):
        fast.run(model, batch)  # raises where attention drops out
    tolerance = _TOLERANCE_HALF if _is_half(model) else _TOLERANCE
    gap = max((seen[0].mean - seen[1].mean).abs().max(), (seen[0].loss - seen[1].loss).abs())
    steep = [(slope - slopes[0]).norm() - 2 * tolerance * slopes[0].norm() for slope in slopes]
    return bool(gap < tolerance) and all(bool(excess <= 0) for excess in steep)
