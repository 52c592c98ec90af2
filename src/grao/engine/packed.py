"""The fast way through the model: one row without padding, each prompt once, logits for answer tokens only."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from grao.engine.attention import RowPlan, Segment
from grao.engine.interface import Loss, Pass, Plan, Tokens, check_budget, sent, sequence_means, transformers_model
from grao.engine.output_layer import linear_loss, output_layer_as, token_logps
from grao.types import Batch, TokenIds


@dataclass(frozen=True)
class PackedEngine:
    """One row without padding, each prompt once, the output layer in chunks and for answer tokens only."""

    def plan(self, batch: Batch, token_budget: int, whole_groups: bool = False) -> Plan:
        """See `Engine.plan`."""
        return plan_packed(batch.prompt_lengths, batch.lengths, batch.numbers, token_budget, whole_groups)

    def run(self, model: nn.Module, batch: Batch, loss: Loss | None = None) -> Pass:
        """See `Engine.run`."""
        weights = next(model.parameters())
        device, precise = weights.device, torch.promote_types(weights.dtype, torch.float32)
        row = _Row.of(batch)
        targets = sent([token for answer in batch.answers for token in answer.ids], device)
        lengths = sent(batch.lengths, device)
        shares = sent(torch.tensor(batch.weights, dtype=torch.float64).to(precise), device) / lengths
        coefficients = shares.repeat_interleave(lengths, output_size=len(targets))
        shown: list[tuple[Tensor, Tensor]] = []
        inner = transformers_model(model)
        # A mixture of experts must not add its own load-balancing loss, which would count this row for a whole step.
        quiet = {"output_router_logits": False} if getattr(inner.config, "output_router_logits", False) else {}

        def read(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            if loss is None:
                value, logps, entropies = linear_loss(hidden[0], weight, bias, targets, coefficients)
            else:
                logps, entropies = token_logps(hidden[0], weight, bias, targets)
                value = loss(Tokens(logps, entropies, hidden[0]))
            shown.append((logps.detach(), entropies))
            return value.view(1, 1, 1).clone()  # FSDP loses its hook if what is a view is changed in place

        with output_layer_as(inner, read):
            value = model(
                input_ids=sent([row.ids], device),
                position_ids=sent([row.positions], device),
                attention_mask=torch.empty(1, 1, 0, 0, dtype=torch.bool, device=device),  # no other attention takes it
                plan=RowPlan(tuple(row.segments)),
                use_cache=False,
                logits_to_keep=sent(row.predicting, device),
                **quiet,
            ).logits.view(())
        ((logps, entropies),) = shown
        return Pass(value, sequence_means(logps, lengths), sequence_means(entropies, lengths), logps)

    def copies(self, batch: Batch, plan: Plan) -> Counter[int]:
        """See `Engine.copies`."""
        return Counter(number for rows in plan for number in {batch.numbers[index] for index in rows})

    def shares(self, batch: Batch, copies: Mapping[int, int]) -> Tensor:
        """See `Engine.shares`."""
        shares: list[float] = []
        for group in batch.groups:
            used = any(answer.weight for answer in group.answers)
            shares += [used / max(copies[group.number], 1)] * len(group.item.prompt_ids)
            for answer in group.answers:
                shares += [float(answer.weight != 0)] * len(answer.ids)
        return torch.tensor(shares)

    def answer_places(self, batch: Batch) -> list[int]:
        """See `Engine.answer_places`."""
        places: list[int] = []
        end = 0
        for group in batch.groups:
            begin = end + len(group.item.prompt_ids)
            end = begin + sum(len(answer.ids) for answer in group.answers)
            places += range(begin, end)
        return places


def plan_packed(
    prompts: Sequence[int], answers: Sequence[int], groups: Sequence[int], token_budget: int, whole_groups: bool = False
) -> Plan:
    """Groups together, their prompt counted once: the tokens of a row stay within the budget.

    A group that is too long for a row continues in the next row, with its prompt repeated; with `whole_groups` it gets
    a row of its own instead, however long.

    Args:
        prompts: tokens of each sequence's prompt.
        answers: tokens of each sequence's answer.
        groups: which group each sequence belongs to; sequences of a group have the same prompt.
        token_budget: upper bound on the tokens of a row; a single longer sequence goes alone.
    """
    check_budget(token_budget)
    sizes: dict[int, int] = {}
    for prompt, answer, group in zip(prompts, answers, groups, strict=True):
        sizes[group] = sizes.get(group, prompt) + answer
    plan: Plan = []
    used = 0
    for index in sorted(range(len(prompts)), key=lambda index: (-sizes[groups[index]], groups[index], -answers[index])):
        known = bool(plan) and groups[plan[-1][-1]] == groups[index]  # the row holds the prompt already
        more = answers[index] + (0 if known else prompts[index])
        ahead = sizes[groups[index]] if whole_groups else more
        if plan and (used + ahead <= token_budget or (whole_groups and known)):
            plan[-1].append(index)
            used += more
        else:
            plan.append([index])
            used = prompts[index] + answers[index]
    return plan


@dataclass(frozen=True)
class _Row:
    """A packed row: prompt, its answers, the next prompt, its answers, ..."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    predicting: list[int] = field(default_factory=list)
    """For each answer token, in order of the answers, the index of the token whose state predicts it."""

    @staticmethod
    def of(batch: Batch) -> "_Row":
        row = _Row()
        for group in batch.groups:
            prompt = group.item.prompt_ids
            last = row._append(prompt, position=0).stop - 1
            for answer in group.answers:
                own = row._append(answer.ids, position=len(prompt))
                row.predicting.extend((last, *range(own.start, own.stop - 1)))
            row.segments.append(Segment.of(len(prompt), [len(answer.ids) for answer in group.answers]))
        return row

    def _append(self, ids: TokenIds, position: int) -> slice:
        indices = slice(len(self.ids), len(self.ids) + len(ids))
        self.ids.extend(ids)
        self.positions.extend(range(position, position + len(ids)))
        return indices
