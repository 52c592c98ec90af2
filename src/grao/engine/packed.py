"""The packed engine: one row without padding, each prompt once, logits for answer tokens only."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from grao.engine.attention import RowPlan, Segment
from grao.engine.interface import Loss, Pass, Plan, Tokens, check_budget, sequence_means, to_device, transformers_model
from grao.engine.output_layer import linear_loss, output_layer_as, token_logps
from grao.types import Batch, TokenIds


@dataclass(frozen=True)
class PackedEngine:
    """Forwards one row without padding that holds each prompt once; scores answer tokens only, in chunks."""

    def plan(self, batch: Batch, token_budget: int, whole_groups: bool = False) -> Plan:
        """See `Engine.plan`."""
        return plan_packed(batch.prompt_lengths, batch.lengths, batch.numbers, token_budget, whole_groups)

    def run(self, model: nn.Module, batch: Batch, loss: Loss | None = None) -> Pass:
        """See `Engine.run`."""
        weights = next(model.parameters())
        device, precise = weights.device, torch.promote_types(weights.dtype, torch.float32)
        row = _Row.of(batch)
        targets = to_device([token for answer in batch.answers for token in answer.ids], device)
        lengths = to_device(batch.lengths, device)
        shares = to_device(torch.tensor(batch.weights, dtype=torch.float64).to(precise), device) / lengths
        coefficients = shares.repeat_interleave(lengths, output_size=len(targets))
        outputs: list[tuple[Tensor, Tensor]] = []
        inner = transformers_model(model)
        # transformers' own load-balancing loss would treat this row as a whole step; grao.engine.routers computes it.
        quiet = {"output_router_logits": False} if getattr(inner.config, "output_router_logits", False) else {}

        def read(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            if loss is None:
                value, logps, entropies = linear_loss(hidden[0], weight, bias, targets, coefficients)
            else:
                logps, entropies = token_logps(hidden[0], weight, bias, targets)
                value = loss(Tokens(logps, entropies, hidden[0]))
            outputs.append((logps.detach(), entropies))
            return value.view(1, 1, 1).clone()  # a view that is later changed in place would lose FSDP's hook

        with output_layer_as(inner, read):
            value = model(
                input_ids=to_device([row.ids], device),
                position_ids=to_device([row.positions], device),
                # 4-D, so that the model builds no mask of its own; empty, so that any other attention fails on it.
                attention_mask=torch.empty(1, 1, 0, 0, dtype=torch.bool, device=device),
                plan=RowPlan(tuple(row.segments)),
                use_cache=False,
                logits_to_keep=to_device(row.predicting, device),
                **quiet,
            ).logits.view(())
        ((logps, entropies),) = outputs
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

    def answer_indices(self, batch: Batch) -> list[int]:
        """See `Engine.answer_indices`."""
        indices: list[int] = []
        end = 0
        for group in batch.groups:
            begin = end + len(group.item.prompt_ids)
            end = begin + sum(len(answer.ids) for answer in group.answers)
            indices += range(begin, end)
        return indices


def plan_packed(
    prompts: Sequence[int], answers: Sequence[int], groups: Sequence[int], token_budget: int, whole_groups: bool = False
) -> Plan:
    """Pack sequences into rows within a token budget, with groups kept together and their prompt counted once.

    A group that does not fit into a row continues in the next row, where its prompt is repeated; with `whole_groups` it
    gets a row of its own instead, however long.

    Args:
        prompts: tokens of each sequence's prompt.
        answers: tokens of each sequence's answer.
        groups: group number of each sequence; sequences of a group have the same prompt.
        token_budget: most tokens of a row; a longer sequence gets a row of its own.
        whole_groups: never split a group.

    Raises:
        ValueError: if the budget is below 1.
    """
    check_budget(token_budget)
    sizes: dict[int, int] = {}
    for prompt, answer, group in zip(prompts, answers, groups, strict=True):
        sizes[group] = sizes.get(group, prompt) + answer
    plan: Plan = []
    used = 0
    for index in sorted(range(len(prompts)), key=lambda index: (-sizes[groups[index]], groups[index], -answers[index])):
        has_prompt = bool(plan) and groups[plan[-1][-1]] == groups[index]  # the row already holds the prompt
        added = answers[index] + (0 if has_prompt else prompts[index])
        needed = sizes[groups[index]] if whole_groups else added
        if plan and (used + needed <= token_budget or (whole_groups and has_prompt)):
            plan[-1].append(index)
            used += added
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
    """For each answer token, in order, the index in the row of the token whose hidden state predicts it."""

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
