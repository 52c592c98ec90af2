"""Choose the training engine: packed if it reproduces the padded engine's numbers on this model, else padded."""

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
"""Nats per token by which the two engines may differ, in single and in half precision."""
_ALONE_HALF = 0.5
"""Nats per token by which a sequence in a batch may differ from the same sequence alone, in half precision.

Loose on purpose: a correct model must never be refused here, for there is no engine left to fall back to.
"""
_TEST_BUDGET = 1000
"""Token budget that holds all sequences of the test batch."""


def engine_for(model: nn.Module, pad_id: int) -> Engine:
    """Return the packed engine if this model gives the same numbers with it, else a padded engine.

    With the packed engine, the model's attention implementation is replaced: on a GPU by FlexAttention if that works,
    otherwise by segment-wise SDPA. Both fall back to plain SDPA when no plan is given, as in sampling.

    Args:
        model: the policy.
        pad_id: any valid token; padding is masked.

    Raises:
        InputError: if the model cannot be trained on text alone, or a sequence gets different probabilities in a batch
            than alone.
    """
    inner, batch = transformers_model(model), random_batch(model)
    problem = f"model: {type(inner).__name__} cannot be trained"
    try:
        engines = PaddedEngine(pad_id), EvenEngine(pad_id)
        padded = next((engine for engine in engines if _matches_single_sequences(model, engine, batch)), None)
        if padded is None:
            raise InputError(f"{problem}: a text gets different probabilities in a batch than alone")
        before = inner.config._attn_implementation
        names = (attention.FLEX, attention.NAME) if inner.device.type == "cuda" else (attention.NAME,)
        for name in names if _eligible(inner) else ():
            with suppress(ValueError, TypeError, RuntimeError, AttributeError, IndexError):
                # Raised by attention layers that pass no plan on, or that need a feature that packed attention lacks.
                inner.set_attn_implementation(name)
                if _agree(model, padded, PackedEngine(), batch):
                    return PackedEngine()
            inner.set_attn_implementation(before)
        with torch.no_grad(), mode(model, training=True):
            padded.run(model, batch)  # some models require inputs other than text in training mode
    except (ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        raise error if isinstance(error, InputError) else InputError(f"{problem}: {one_line(error)}") from error
    return padded


def _eligible(model: PreTrainedModel) -> bool:
    """Whether the model has a plain linear output layer and uses SDPA with full or sliding-window attention only."""
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
    """Return a batch of a few random sequences, by default with prompts of two lengths.

    Args:
        model: whose vocabulary is drawn from.
        prompts: length of each prompt in tokens.
        answers: length in tokens, weight, and index of the prompt of each answer.
    """
    draw, rows = torch.Generator().manual_seed(0), embedded_tokens(transformers_model(model))

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, rows, (length,), generator=draw).tolist())

    items = [Encoded(Example("", "", None, {}, 0), "", tokens(length), "", ()) for length in prompts]
    owned = [(Answer(tokens(length), weight=weight), owner) for length, weight, owner in answers]
    return Batch(
        tuple(Group(item, tuple(answer for answer, owner in owned if owner == n), n) for n, item in enumerate(items))
    )


def _matches_single_sequences(model: nn.Module, engine: Engine, batch: Batch) -> bool:
    """Whether each sequence gets the likelihood that the model's plain forward pass gives it alone."""
    gaps = []
    with torch.no_grad(), mode(model, training=False):
        for rows in engine.plan(batch, _TEST_BUDGET):
            part = batch.select(rows)
            texts = zip(part.owners, part.answers, engine.run(model, part).mean, strict=True)
            gaps += [mean - plain_logps(model, g.item.prompt_ids, answer.ids).mean() for g, answer, mean in texts]
    return bool(torch.stack(gaps).abs().max() < (_ALONE_HALF if _is_half(model) else _TOLERANCE))


def _is_half(model: nn.Module) -> bool:
    return next(model.parameters()).dtype.itemsize < 4


def _agree(model: nn.Module, plain: Engine, fast: Engine, batch: Batch) -> bool:
    """Whether two engines give the same likelihoods, loss and gradient, and the fast one also runs in training mode."""
    weight = next((parameter for parameter in model.parameters() if parameter.requires_grad), None)
    with mode(model, training=False):
        passes = [engine.run(model, batch) for engine in (plain, fast)]
        gradients = [torch.autograd.grad(result.loss, weight)[0] for result in passes] if weight is not None else []
    with mode(model, training=True):
        fast.run(model, batch)  # raises if the model uses attention dropout
    tolerance = _TOLERANCE_HALF if _is_half(model) else _TOLERANCE
    gap = max((passes[0].mean - passes[1].mean).abs().max(), (passes[0].loss - passes[1].loss).abs())
    excesses = [(grad - gradients[0]).norm() - 2 * tolerance * gradients[0].norm() for grad in gradients]
    return bool(gap < tolerance) and all(bool(excess <= 0) for excess in excesses)
