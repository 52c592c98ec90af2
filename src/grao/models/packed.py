"""The fast way through the model: one row without padding, each prompt once, logits for completion tokens only."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from grao.core import Plan, plan_packed
from grao.core.transfer import sent
from grao.models.attention import RowPlan, Segment
from grao.models.engine import Batch, Loss, Pass, TokenIds, Tokens, sequence_means
from grao.models.output_layer import linear_loss, output_layer_as, token_logps


@dataclass(frozen=True)
class PackedEngine:
    """One row without padding, each prompt once, the output layer in chunks and for completion tokens only."""

    def plan(self, batch: Batch, token_budget: int, whole_groups: bool = False) -> Plan:
        """See `Engine.plan`."""
        return plan_packed(*batch.lengths(), batch.groups, token_budget, whole_groups)

    def run(self, model: nn.Module, batch: Batch, loss: Loss | None = None) -> Pass:
        """See `Engine.run`. Sequences of a group must be neighbours, or their prompt stands there again."""
        weights = next(model.parameters())
        device, precise = weights.device, torch.promote_types(weights.dtype, torch.float32)
        row = _Row.of(batch)
        targets = sent([token for completion in batch.completions for token in completion], device)
        lengths = sent([len(completion) for completion in batch.completions], device)
        shares = sent(batch.weights.to(precise), device) / lengths
        coefficients = shares.repeat_interleave(lengths, output_size=len(targets))
        shown: list[tuple[Tensor, Tensor]] = []

        def read(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            if loss is None:
                value, logps, entropies = linear_loss(hidden[0], weight, bias, targets, coefficients)
            else:
                logps, entropies = token_logps(hidden[0], weight, bias, targets)
                value = loss(Tokens(logps, entropies, hidden[0]))
            shown.append((logps.detach(), entropies))
            return value.view(1, 1, 1)

        with output_layer_as(transformers_model(model), read):
            value = model(
                input_ids=sent([row.ids], device),
                position_ids=sent([row.positions], device),
                attention_mask=torch.empty(1, 1, 0, 0, dtype=torch.bool, device=device),  # no other attention takes it
                plan=RowPlan(tuple(row.segments)),
                use_cache=False,
                logits_to_keep=sent(row.predicting, device),
                **_without_own_loss(model),
            ).logits.view(())
        ((logps, entropies),) = shown
        return Pass(value, sequence_means(logps, lengths), sequence_means(entropies, lengths), logps)

    def copies(self, batch: Batch, plan: Plan) -> Counter[int]:
        """See `Engine.copies`."""
        return Counter(group for rows in plan for group in {batch.groups[index] for index in rows})

    def shares(self, batch: Batch, copies: Mapping[int, int]) -> Tensor:
        """See `Engine.shares`."""
        weighted = (batch.weights != 0).tolist()
        shares: list[float] = []
        for group, members in _neighbours(batch):
            used = any(weighted[index] for index in members)
            shares += [used / max(copies[group], 1)] * len(batch.prompts[members[0]])
            for index in members:
                shares += [float(weighted[index])] * len(batch.completions[index])
        return torch.tensor(shares)


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
        for _, indices in _neighbours(batch):
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


def _neighbours(batch: Batch) -> Iterator[tuple[int, list[int]]]:
    """Each group with its members' indices, in order; a group whose members are no neighbours comes again."""
    for group, members in groupby(range(len(batch.prompts)), key=lambda index: batch.groups[index]):
        yield group, list(members)


def _without_own_loss(model: nn.Module) -> dict[str, bool]:
    """Keeps a mixture of experts from its own load-balancing loss, which would count this row for a whole step."""
    asked = getattr(transformers_model(model).config, "output_router_logits", False)
    return {"output_router_logits": False} if asked else {}


def transformers_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model (or its adapter) inside wrappers such as DistributedDataParallel."""
    while not hasattr(model, "get_output_embeddings"):
        model = cast(nn.Module, model.module)
    return cast(PreTrainedModel, model)
