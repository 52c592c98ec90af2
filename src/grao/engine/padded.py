"""The padded engine: one row per answer. It works for any causal language model; the packed engine is faster."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grao.core import weighted_likelihood_loss
from grao.engine.interface import Loss, Pass, Plan, Tokens, check_budget, to_device, transformers_model
from grao.types import Batch, TokenIds


@dataclass(frozen=True)
class PaddedEngine:
    """Forwards one row per answer, padded to the longest; for any causal language model that takes a padding mask."""

    pad_id: int = 0

    def plan(self, batch: Batch, token_budget: int, whole_groups: bool = False) -> Plan:
        """See `Engine.plan`."""
        return plan_padded(batch.prompt_lengths, batch.lengths, token_budget, batch.numbers if whole_groups else None)

    def run(self, model: nn.Module, batch: Batch, loss: Loss | None = None) -> Pass:
        """See `Engine.run`."""
        states: list[Tensor] = []  # inputs of the output layer, (S, T, D), for a custom loss
        layer = transformers_model(model).get_output_embeddings()
        prompts = [group.item.prompt_ids for group in batch.owners]
        with layer.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])) if loss else nullcontext():
            scored = completion_likelihood(model, prompts, [answer.ids for answer in batch.answers], self.pad_id)
        longest = scored.tokens.shape[1]
        positions = [row * longest + column for row, length in enumerate(batch.lengths) for column in range(length)]
        # Indices rather than a boolean mask: the size of a masked result would make the host wait for the GPU.
        indices = to_device(positions, scored.tokens.device)
        logps = scored.tokens.flatten()[indices]
        if loss is None:
            weights = to_device(
                torch.tensor(batch.weights, dtype=torch.float64).to(scored.mean.dtype), scored.mean.device
            )
            value = weighted_likelihood_loss(weights, scored.mean, prompts=1)
        else:
            hidden = states[0][:, -scored.mask.shape[1] - 1 : -1]
            value = loss(Tokens(logps, scored.entropies.flatten()[indices], hidden.flatten(0, 1)[indices]))
        return Pass(value, scored.mean.detach(), scored.entropy, logps.detach())

    def copies(self, batch: Batch, plan: Plan) -> Counter[int]:
        """See `Engine.copies`."""
        return Counter(batch.numbers)

    def shares(self, batch: Batch, copies: Mapping[int, int]) -> Tensor:
        """See `Engine.shares`."""
        prompt_width, answer_width = max(batch.prompt_lengths), max(batch.lengths)
        shares = torch.zeros(len(batch.answers), prompt_width + answer_width)
        for row, (group, answer) in enumerate(zip(batch.owners, batch.answers, strict=True)):
            if answer.weight:
                shares[row, prompt_width - len(group.item.prompt_ids) : prompt_width] = 1 / max(copies[group.number], 1)
                shares[row, prompt_width : prompt_width + len(answer.ids)] = 1
        return shares.flatten()

    def answer_indices(self, batch: Batch) -> list[int]:
        """See `Engine.answer_indices`."""
        prompt_width, answer_width = max(batch.prompt_lengths), max(batch.lengths)
        starts = (row * (prompt_width + answer_width) + prompt_width for row in range(len(batch.answers)))
        return [
            index for start, length in zip(starts, batch.lengths, strict=True) for index in range(start, start + length)
        ]


class EvenEngine(PaddedEngine):
    """A `PaddedEngine` that only batches prompts of equal length, so that none is padded.

    For models whose output depends on the padding in front of a prompt, although it is masked.
    """

    def plan(self, batch: Batch, token_budget: int, whole_groups: bool = False) -> Plan:
        """See `Engine.plan`."""
        rows_of: dict[int, list[int]] = {}
        for row, length in enumerate(batch.prompt_lengths):
            rows_of.setdefault(length, []).append(row)
        plans = [
            (rows, super(EvenEngine, self).plan(batch.select(rows), token_budget, whole_groups))
            for rows in rows_of.values()
        ]
        return [[rows[index] for index in part] for rows, plan in plans for part in plan]


def plan_padded(
    prompts: Sequence[int], answers: Sequence[int], token_budget: int, groups: Sequence[int] | None = None
) -> Plan:
    """Batch sequences of similar length, so that rows times the longest row stay within the budget.

    Args:
        prompts: tokens of each sequence's prompt.
        answers: tokens of each sequence's answer.
        token_budget: most tokens of a micro-batch, padding included; a longer sequence gets one of its own.
        groups: group number of each sequence; if given, groups are never split.

    Raises:
        ValueError: if the budget is below 1.
    """
    check_budget(token_budget)
    lengths = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    blocks: dict[int, list[int]] = {}
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        blocks.setdefault(index if groups is None else groups[index], []).append(index)
    plan: Plan = []
    for block in blocks.values():
        if plan and (len(plan[-1]) + len(block)) * lengths[plan[-1][0]] <= token_budget:
            plan[-1] += block
        else:
            plan.append(list(block))
    return plan


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihoods of S completions."""

    mean: Tensor
    """(S,), J(x): mean log-likelihood per token in nats, with gradient."""
    tokens: Tensor
    """(S, T), log-likelihood of every token in nats; 0 on padding. With gradient."""
    mask: Tensor
    """(S, T) bool, true on the completion's own tokens."""
    entropies: Tensor
    """(S, T), entropy of the next-token distribution in nats; 0 on padding. Without gradient."""

    @property
    def entropy(self) -> Tensor:
        """(S,), mean entropy over each completion's tokens."""
        return self.entropies.sum(dim=1) / self.mask.sum(dim=1)


def completion_likelihood(
    model: nn.Module,
    prompts: Sequence[TokenIds],
    completions: Sequence[TokenIds],
    pad_id: int = 0,
    temperature: float = 1.0,
) -> Likelihood:
    """Compute J(x) = 1/|x| * sum_t log pi(x_t | q, x_<t) for S prompt-completion pairs (paper, eq. 3).

    Prompts are padded on the left and completions on the right, so that all completions start in the same column and
    the output layer is applied to completion positions only.

    Args:
        model: causal language model of transformers; called as it is, so that the hooks of a wrapper run.
        prompts: S token sequences of at least one token.
        completions: S token sequences of at least one token, the end token included.
        pad_id: any valid token; padding is masked.
        temperature: divides the logits.
    """
    prompt_length, length = max(map(len, prompts)), max(map(len, completions))
    device = next(model.parameters()).device
    rows = torch.full((len(prompts), prompt_length + length), pad_id)
    attention = torch.zeros_like(rows)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        start, end = prompt_length - len(prompt), prompt_length + len(completion)
        rows[row, start:end] = torch.tensor([*prompt, *completion])
        attention[row, start:end] = 1
    rows, attention = to_device(rows, device), to_device(attention, device)

    logits = model(
        input_ids=rows,
        attention_mask=attention,
        position_ids=(attention.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=length + 1,
    ).logits[:, -length - 1 : -1]  # some models ignore `logits_to_keep` and return all logits
    precise = torch.promote_types(logits.dtype, torch.float32)
    logps = F.log_softmax(logits.to(precise) / temperature, dim=-1)  # (S, T, V)
    mask = attention[:, prompt_length:].bool()
    tokens = logps.gather(-1, rows[:, prompt_length:, None]).squeeze(-1) * mask
    with torch.no_grad():
        entropies = -(logps.exp() * logps).sum(dim=-1) * mask
    return Likelihood(mean=tokens.sum(dim=1) / mask.sum(dim=1), tokens=tokens, mask=mask, entropies=entropies)


@torch.no_grad()
def plain_logps(model: nn.Module, prompt: TokenIds, completion: TokenIds) -> Tensor:
    """Return the (T,) log-likelihoods of a completion from a plain forward pass: one text, no cache, no padding."""
    ids = torch.tensor([[*prompt, *completion]], device=next(model.parameters()).device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    logps = logits.float().log_softmax(dim=-1)
    return logps.gather(-1, ids[0, len(prompt) :, None]).squeeze(-1)
