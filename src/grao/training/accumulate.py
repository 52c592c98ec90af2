"""Gradient accumulation: the micro-batches of one optimizer step, on any number of processes."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from grao.engine.interface import Engine, Loss, Pass, Plan, Tokens, sequence_means, to_device
from grao.engine.routers import BalancedPass, Routers, routed_pass
from grao.methods.base import Before, Method, TokenView, kl_estimate
from grao.training.experience import Update
from grao.training.gap import IMPORTANCE, Importance, SamplerGap, sampler_logps
from grao.types import Answer, Batch, Encoded, Example, Group, Role

_EVERY_BACKWARD_SYNCHRONISES = (DistributedType.FSDP, DistributedType.DEEPSPEED)
_EMPTY_PROMPT = Encoded(Example("", "", None, {}, 0), "", (0,), "", ())
_PLACEHOLDER = Batch((Group(_EMPTY_PROMPT, (Answer((0,)),), number=-1),))
"""Forwarded with weight 0 by a process that has run out of micro-batches while others have not."""


@dataclass(frozen=True)
class UpdateLoss:
    """The loss of an update: by default the weighted negative log-likelihood."""

    method: Method | None = None
    """Supplies the loss if it defines one."""
    critic: nn.Module | None = None
    """(N, D) hidden states -> (N,) values."""
    routers: Routers | None = None
    """Routers of a mixture of experts whose load is balanced over the step; None without the router loss."""
    router_loss: float = 0.0
    """Weight of the router loss."""
    importance: Importance | None = None
    """Truncated importance weights on the gradients of samples."""


@dataclass(frozen=True)
class StepOutput:
    """Results of the forward passes of one optimizer step, on this process. The update has S answers."""

    loss: Tensor
    """Scalar; its mean over all processes is the loss of the step."""
    loglik: Tensor
    """(S,), mean log-likelihood J of each answer before the update, nats per token."""
    entropy: Tensor
    """(S,), mean entropy of each answer, nats per token."""
    kl: Tensor | None
    """(S,), estimate of KL(policy | starting model) on each answer, nats per token; None if not measured."""
    sampler: SamplerGap
    """Difference between sampling engine and trainer on each answer."""
    tokens: int
    """Answer tokens in the update."""
    balance: Tensor | None = None
    """Scalar, this process's share of the unweighted load-balancing loss; None without one."""
    numbers: Mapping[str, Tensor] = field(default_factory=dict)
    """Values of (S,) reported by the method's loss; NaN for answers without one."""
    experts: Mapping[str, float] = field(default_factory=dict)
    """Expert statistics over all processes (`grao.engine.experts`); empty for dense models."""


def accumulate_gradient(
    model: nn.Module,
    update: Update,
    accelerator: Accelerator,
    engine: Engine,
    token_budget: int,
    update_loss: UpdateLoss | None = None,
    before: Before | None = None,
) -> StepOutput:
    """Run forward and backward over an update, micro-batch by micro-batch, and leave the gradients in the model.

    All processes run the same number of micro-batches; one that has none left backpropagates a zero. If no process has
    an answer with non-zero weight, nothing runs and the gradients stay None, so the optimizer changes nothing.

    Args:
        model: the policy as wrapped by the trainer.
        update: the groups of this process.
        accelerator: the trainer's accelerator.
        engine: runs the forward passes.
        token_budget: maximum tokens per micro-batch.
        update_loss: the loss; by default the weighted negative log-likelihood.
        before: log-probabilities, values and advantages computed before the first gradient step (`Observer.before`).
    """
    update_loss, before = update_loss or UpdateLoss(), before or Before()
    batch, device = update.batch, accelerator.device
    size, lengths = len(batch.answers), batch.lengths
    plan = engine.plan(batch, token_budget, update_loss.method is not None and update_loss.method.needs.whole_groups)
    plan, parts = aligned_micro_batches(batch, plan, accelerator)
    micro_batches = len(plan)
    run = _pass(model, update, plan, parts, accelerator, engine, update_loss)

    loss, balance = torch.zeros(2, device=device)
    loglik, entropy, kl = (torch.zeros(size, device=device) for _ in range(3))
    gap = torch.zeros(3, size, device=device)
    numbers: dict[str, Tensor] = defaultdict(lambda: torch.full((size,), torch.nan, device=device))
    for number, (rows, part) in enumerate(zip(plan, parts, strict=True)):
        known_tokens = before.select(lengths, rows) if rows else Before()
        indices = to_device(rows, device) if rows else None
        with _synchronised(accelerator, model, last=number + 1 == micro_batches):
            output = run(model, part, _loss(part, indices, known_tokens, update_loss, numbers))
            share = output.loss * accelerator.num_processes / update.prompts  # processes are averaged, prompts summed
            accelerator.backward(share)
        loss += share.detach()
        balance += 0.0 if output.balance is None else output.balance
        if indices is not None:
            loglik[indices], entropy[indices] = output.mean.to(loglik), output.entropy.to(entropy)
            answer_lengths = to_device(part.lengths, device)
            sampler = to_device(sampler_logps(part.answers, output.tokens.dtype), device)
            gap[:, indices] = SamplerGap.of(output.tokens, sampler, answer_lengths).to(gap)
            if known_tokens.frozen is not None:
                kl[indices] = sequence_means(kl_estimate(output.tokens, known_tokens.frozen), answer_lengths).to(kl)
    measured_kl = None if before.frozen is None else kl
    router_loss = None if update_loss.routers is None else balance
    return StepOutput(loss, loglik, entropy, measured_kl, SamplerGap(*gap), sum(lengths), router_loss, dict(numbers))


def aligned_micro_batches(batch: Batch, plan: Plan, accelerator: Accelerator) -> tuple[Plan, list[Batch]]:
    """Pad a plan with empty micro-batches to the longest plan of any process, and select each micro-batch's answers.

    Sharded weights are gathered in every pass, so all processes must make equally many; a process forwards a
    placeholder for an empty micro-batch.
    """
    most = int(accelerator.gather(torch.tensor([len(plan)], device=accelerator.device)).max())
    plan = [*plan, *([[]] * (most - len(plan)))]
    return plan, [batch.select(rows) if rows else _PLACEHOLDER for rows in plan]


def _loss(
    batch: Batch, indices: Tensor | None, before: Before, update_loss: UpdateLoss, numbers: dict[str, Tensor]
) -> Loss | None:
    """Return the loss function of one micro-batch, None for the engine's own; it logs into `numbers` at `indices`."""
    method, critic, importance = update_loss.method, update_loss.critic, update_loss.importance
    if method is None or (method.weighted_likelihood and importance is None):
        return None
    if indices is None:  # a differentiable zero in which every weight takes part
        return lambda tokens: 0.0 * (tokens.logps.sum() + (critic(tokens.hidden).sum() if critic else 0.0))

    if importance:
        importance.check(batch)

    def loss(tokens: Tokens) -> Tensor:
        device, precise = tokens.logps.device, tokens.logps.dtype
        view = TokenView(
            logps=tokens.logps,
            entropies=tokens.entropies,
            values=critic(tokens.hidden) if critic else None,
            before=before,
            signals=to_device(torch.tensor([answer.signal for answer in batch.answers], dtype=precise), device),
            roles=to_device([int(answer.role) for answer in batch.answers], device),
            groups=to_device(batch.numbers, device),
            lengths=to_device(batch.lengths, device),
        )
        if importance:
            weights = importance.weights(view, to_device(sampler_logps(batch.answers, precise), device))
            view = replace(view, logps=importance.scaled(view.logps, weights))
            for name, values in zip(IMPORTANCE, (weights, (weights == importance.cap).to(weights)), strict=True):
                numbers[name][indices] = view.mean(values).to(numbers[name]).where(view.roles == Role.SAMPLE, torch.nan)
        losses = method.loss(view)
        for name, values in losses.numbers.items():
            numbers[name][indices] = values.detach().to(numbers[name])
        return (to_device(torch.tensor(batch.weights, dtype=losses.loss.dtype), device) * losses.loss).sum()

    return loss


def _pass(
    model: nn.Module,
    update: Update,
    plan: Plan,
    parts: Sequence[Batch],
    accelerator: Accelerator,
    engine: Engine,
    update_loss: UpdateLoss,
) -> Callable[[nn.Module, Batch, Loss | None], Pass]:
    """Return the engine's forward pass, or one whose loss includes the router loss."""
    routers = update_loss.routers
    if routers is None or not parts:
        return engine.run
    copies = engine.copies(update.batch, plan)
    counts: Tensor | None = None
    if len(parts) > 1 or accelerator.num_processes > 1:  # an extra forward pass counts routing choices
        with torch.no_grad():
            chosen = [routed_pass(engine, routers, model, part, copies)[1].counts() for part in parts]
            counts = accelerator.reduce(torch.stack(chosen).sum(dim=0), reduction="sum")
    return BalancedPass(engine, routers, update_loss.router_loss * update.prompts, copies, counts)


@contextmanager
def _synchronised(accelerator: Accelerator, model: nn.Module, last: bool) -> Iterator[None]:
    """Synchronise gradients in the last micro-batch only; with FSDP and DeepSpeed, which shard them, in every one.

    DeepSpeed steps its optimizer in every backward pass with `sync_gradients` set, and accelerate's `no_sync` leaves
    it set, so it is set here.
    """
    every = last or accelerator.distributed_type in _EVERY_BACKWARD_SYNCHRONISES
    with nullcontext() if every else accelerator.no_sync(model):
        accelerator.gradient_state._set_sync_gradients(last)
        yield
