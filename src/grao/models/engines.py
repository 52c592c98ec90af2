"""Two ways through the model with weighted sequences, equal in loss and gradient.

`PackedEngine` computes each prompt once and pads nothing; `PaddedEngine` always works. `engine_for` picks the first
where it gives the same numbers for the model at hand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grao.core import Plan, plan_packed, plan_padded, weighted_likelihood_loss
from grao.models.attention import NAME, RowPlan, Segment
from grao.models.likelihood import completion_likelihood
from grao.models.output_layer import linear_loss, output_layer_as

TokenIds = Sequence[int]

_TOLERANCE, _TOLERANCE_HALF = 1e-3, 5e-2
"""Nats per token by which the engines may differ, in single and in half precision."""


@dataclass(frozen=True)
class Batch:
    """S sequences that go through the model together."""

    prompts: Sequence[TokenIds]
    completions: Sequence[TokenIds]
    groups: Sequence[int]
    """Sequences of one group have the same prompt."""
    weights: Tensor
    """(S,), constants."""

    def rows(self, indices: Sequence[int]) -> "Batch":
        """Some of them, in the order given."""
        return Batch(
            [self.prompts[index] for index in indices],
            [self.completions[index] for index in indices],
            [self.groups[index] for index in indices],
            self.weights[list(indices)],
        )


@dataclass(frozen=True)
class Pass:
    """What one forward pass showed."""

    loss: Tensor
    """-sum_s w_s * J_s, with gradient."""
    mean: Tensor
    """(S,), J(x): mean log-likelihood per token in nats. Without gradient, as all that follows."""
    entropy: Tensor
    """(S,), mean entropy in nats."""
    tokens: Tensor
    """(N,), log-likelihood of each completion token, one sequence behind the other."""


class Engine(Protocol):
    """A way through the model."""

    def plan(self, batch: Batch, token_budget: int) -> Plan:
        """Micro-batches for `run`."""
        ...

    def run(self, model: nn.Module, batch: Batch) -> Pass:
        """One micro-batch through the forward of `model` as it was given (wrapped or not)."""
        ...


@dataclass(frozen=True)
class PaddedEngine:
    """One row a sequence, padded; works for every causal language model."""

    pad_id: int = 0

    def plan(self, batch: Batch, token_budget: int) -> Plan:
        """See `Engine.plan`."""
        return plan_padded(*_lengths(batch), token_budget)

    def run(self, model: nn.Module, batch: Batch) -> Pass:
        """See `Engine.run`."""
        seen = completion_likelihood(model, batch.prompts, batch.completions, self.pad_id)
        loss = weighted_likelihood_loss(batch.weights.to(seen.mean), seen.mean, prompts=1)
        return Pass(loss, seen.mean.detach(), seen.entropy, seen.tokens.detach()[seen.mask])


@dataclass(frozen=True)
class PackedEngine:
    """One row without padding, each prompt once, the output layer in chunks and for completion tokens only."""

    def plan(self, batch: Batch, token_budget: int) -> Plan:
        """See `Engine.plan`."""
        return plan_packed(*_lengths(batch), batch.groups, token_budget)

    def run(self, model: nn.Module, batch: Batch) -> Pass:
        """See `Engine.run`. Sequences of a group must be neighbours, or their prompt stands there again."""
        weights = next(model.parameters())
        device, precise = weights.device, torch.promote_types(weights.dtype, torch.float32)
        row = _Row.of(batch)
        lengths = torch.tensor([len(completion) for completion in batch.completions], device=device)
        coefficients = (batch.weights.to(device, precise) / lengths).repeat_interleave(lengths)
        targets = torch.tensor([token for completion in batch.completions for token in completion], device=device)
        shown: list[tuple[Tensor, Tensor]] = []

        def read(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            loss, logps, entropies = linear_loss(hidden[0], weight, bias, targets, coefficients)
            shown.append((logps, entropies))
            return loss.view(1, 1, 1)

        with output_layer_as(_inner(model), read):
            loss = model(
                input_ids=torch.tensor([row.ids], device=device),
                position_ids=torch.tensor([row.positions], device=device),
                attention_mask=torch.empty(1, 1, 0, 0, dtype=torch.bool, device=device),  # no other attention takes it
                plan=RowPlan(tuple(row.segments)),
                use_cache=False,
                logits_to_keep=torch.tensor(row.predicting, device=device),
            ).logits.view(())
        ((logps, entropies),) = shown
        return Pass(loss, _means(logps, lengths), _means(entropies, lengths), logps)


@dataclass(frozen=True)
class _Row:
    """A packed row: prompt, its answers, the next prompt, its answers, ..."""

    ids: list[int]
    positions: list[int]
    segments: list[Segment]
    predicting: list[int]
    """For each completion token, in order of the sequences, the place whose state predicts it."""

    @staticmethod
    def of(batch: Batch) -> "_Row":
        row = _Row([], [], [], [])
        for _, members in groupby(range(len(batch.prompts)), key=lambda index: batch.groups[index]):
            indices = list(members)
            prompt, answers = batch.prompts[indices[0]], [batch.completions[index] for index in indices]
            last = row._append(prompt, position=0).stop - 1
            for answer in answers:
                own = row._append(answer, position=len(prompt))
                row.predicting.extend((last, *range(own.start, own.stop - 1)))
            row.segments.append(Segment.of(len(prompt), [len(answer) for answer in answers]))
        return row

    def _append(self, ids: TokenIds, position: int) -> slice:
        places = slice(len(self.ids), len(self.ids) + len(ids))
        self.ids.extend(ids)
        self.positions.extend(range(position, position + len(ids)))
        return places


def engine_for(model: nn.Module, pad_id: int) -> Engine:
    """The packed engine if this model gives the same numbers with it, else the padded one.

    The model's attention is switched to `grao.models.attention` on the way; for sampling that is plain SDPA.
    """
    inner, padded = _inner(model), PaddedEngine(pad_id)
    if not _eligible(inner):
        return padded
    before = inner.config._attn_implementation
    try:
        inner.set_attn_implementation(NAME)
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
        and config._attn_implementation in ("sdpa", NAME)
        and kinds <= {"full_attention", "sliding_attention"}
        and not getattr(config, "attention_chunk_size", None)
    )


@torch.no_grad()
def _agree(model: nn.Module, one: Engine, other: Engine) -> bool:
    """Whether two engines see the same on a few random sequences, with the dropout that training would have."""
    config = _inner(model).config.get_text_config()
    draw = torch.Generator().manual_seed(0)

    def some(length: int) -> list[int]:
        tokens: list[int] = torch.randint(0, config.vocab_size, (length,), generator=draw).tolist()
        return tokens

    first, second = some(7), some(3)
    completions = [some(length) for length in (5, 1, 9, 4)]
    batch = Batch([first, first, first, second], completions, [0, 0, 0, 1], torch.tensor([1.0, -0.5, 0.25, 2.0]))
    training = model.training
    try:
        model.eval()
        seen = [engine.run(model, batch) for engine in (one, other)]
        model.train()
        other.run(model, batch)  # raises where attention drops out
    finally:
        model.train(training)
    half = torch.finfo(next(model.parameters()).dtype).bits < 32
    gaps = [(seen[0].mean - seen[1].mean).abs().max(), (seen[0].loss - seen[1].loss).abs()]
    return bool(max(gaps) < (_TOLERANCE_HALF if half else _TOLERANCE))


def _lengths(batch: Batch) -> tuple[list[int], list[int]]:
    return [len(prompt) for prompt in batch.prompts], [len(completion) for completion in batch.completions]


def _means(values: Tensor, lengths: Tensor) -> Tensor:
    """(N,) values of S sequences one behind the other -> (S,) means."""
    return torch.segment_reduce(values, "mean", lengths=lengths)


def _inner(model: nn.Module) -> PreTrainedModel:
    """The transformers model (or its adapter) inside wrappers such as DistributedDataParallel."""
    while not hasattr(model, "get_output_embeddings"):
        model = cast(nn.Module, model.module)
    return cast(PreTrainedModel, model)
