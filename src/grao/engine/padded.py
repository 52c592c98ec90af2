"""The plain way through the model: one row an answer, padded."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grao.core import weighted_likelihood_loss
from grao.engine.interface import Loss, Pass, Plan, Tokens, check_budget, sent, transformers_model
from grao.types import Batch, TokenIds


@dataclass(frozen=True)
class PaddedEngine:
    """One row an answer, padded to the longest; works for every causal language model that takes a padding mask."""

    pad_id: int = 0

    def plan(self, batch: Batch, token_budget: int, whole_groups: bool = False) -> Plan:
        """See `Engine.plan`."""
        return plan_padded(batch.prompt_lengths, batch.lengths, token_budget, batch.numbers if whole_groups else None)

    def run(self, model: nn.Module, batch: Batch, loss: Loss | None = None) -> Pass:
        """See `Engine.run`."""
        states: list[Tensor] = []  # what goes into the output layer, (S, T, D), where the loss asks for it
        layer = transformers_model(model).get_output_embeddings()
        prompts = [group.item.prompt_ids for group in batch.owners]
        with layer.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])) if loss else nullcontext():
            seen = completion_likelihood(model, prompts, [answer.ids for answer in batch.answers], self.pad_id)
        longest = seen.tokens.shape[1]
        places = [row * longest + place for row, length in enumerate(batch.lengths) for place in range(length)]
        own = sent(places, seen.tokens.device)  # a mask would make the host wait for how many there are
        logps = seen.tokens.flatten()[own]
        if loss is None:
            weights = sent(torch.tensor(batch.weights, dtype=torch.float64).to(seen.mean.dtype), seen.mean.device)
            value = weighted_likelihood_loss(weights, seen.mean, prompts=1)
        else:
            hidden = states[0][:, -seen.mask.shape[1] - 1 : -1]
            value = loss(Tokens(logps, seen.entropies.flatten()[own], hidden.flatten(0, 1)[own]))
        return Pass(value, seen.mean.detach(), seen.entropy, logps.detach())

    def copies(self, batch: Batch, plan: Plan) -> Counter[int]:
        """See `Engine.copies`."""
        return Counter(batch.numbers)

    def shares(self, batch: Batch, copies: Mapping[int, int]) -> Tensor:
        """See `Engine.shares`."""
        before, behind = max(batch.prompt_lengths), max(batch.lengths)
        shares = torch.zeros(len(batch.answers), before + behind)
        for row, (group, answer) in enumerate(zip(batch.owners, batch.answers, strict=True)):
            if answer.weight:
                shares[row, before - len(group.item.prompt_ids) : before] = 1 / max(copies[group.number], 1)
                shares[row, before : before + len(answer.ids)] = 1
        return shares.flatten()

    def answer_places(self, batch: Batch) -> list[int]:
        """See `Engine.answer_places`."""
        before, behind = max(batch.prompt_lengths), max(batch.lengths)
        begins = (row * (before + behind) + before for row in range(len(batch.answers)))
        return [
            place for begin, length in zip(begins, batch.lengths, strict=True) for place in range(begin, begin + length)
        ]


class EvenEngine(PaddedEngine):
    """As `PaddedEngine`, with prompts of one length together: for models that see the padding in front of a prompt."""

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
    """Sequences of similar length together: rows times longest row stay within the budget.

    Args:
        prompts: tokens of each sequence's prompt.
        answers: tokens of each sequence's answer.
        token_budget: upper bound on the padded tokens of a micro-batch; what is longer goes alone.
        groups: where given, sequences of one group stay together.
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
    """Of S completions."""

    mean: Tensor
    """(S,), J(x): mean log-likelihood per token in nats, with gradient."""
    tokens: Tensor
    """(S, T), log-likelihood of every token; 0 behind the end. With gradient."""
    mask: Tensor
    """(S, T) bool, true on the completion's own tokens."""
    entropies: Tensor
    """(S, T), entropy of the next-token distribution in nats; 0 behind the end. Without gradient."""

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
    """J(x) = 1/|x| * sum_t log pi(x_t | q, x_<t) for S pairs of prompt and completion (paper, eq. 3).

    Prompts are padded on the left and completions on the right, so that the output layer sees the
    positions of completions only. Goes through the forward of `model` as it was given (wrapped or not).

    Args:
        model: causal language model of transformers.
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
    rows, attention = sent(rows, device), sent(attention, device)

    logits = model(
        input_ids=rows,
        attention_mask=attention,
        position_ids=(attention.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=length + 1,
    ).logits[:, -length - 1 : -1]  # some models give all of them, whatever they are asked for
    precise = torch.promote_types(logits.dtype, torch.float32)
    logps = F.log_softmax(logits.to(precise) / temperature, dim=-1)  # (S, T, V)
    mask = attention[:, prompt_length:].bool()
    tokens = logps.gather(-1, rows[:, prompt_length:, None]).squeeze(-1) * mask
    with torch.no_grad():
        entropies = -(logps.exp() * logps).sum(dim=-1) * mask
    return Likelihood(mean=tokens.sum(dim=1) / mask.sum(dim=1), tokens=tokens, mask=mask, entropies=entropies)


@torch.no_grad()
def plain_logps(model: nn.Module, prompt: TokenIds, completion: TokenIds) -> Tensor:
    """(T,), log-likelihood of a completion's tokens by a forward pass of one text, as the model does it by itself."""
    ids = torch.tensor([[*prompt, *completion]], device=next(model.parameters()).device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    logps = logits.float().log_softmax(dim=-1)
    return logps.gather(-1, ids[0, len(prompt) :, None]).squeeze(-1)
