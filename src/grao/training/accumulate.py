"""An update in, gradients out: the micro-batches of one optimiser step on any number of processes."""

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
_NOTHING = Encoded(Example("", "", None, {}, 0), "", (0,), "", ())
_STAND_IN = Batch((Group(_NOTHING, (Answer((0,)),), number=-1),))
"""What a process forwards, with weight 0, where others still have something to learn from."""


@dataclass(frozen=True)
class UpdateLoss:
    """What is minimised: by default the weighted likelihood."""

    method: Method | None = None
    """Its loss is taken if it has one of its own."""
    critic: nn.Module | None = None
    """(N, D) hidden states -> (N,) values."""
    routers: Routers | None = None
    """Of a mixture of experts whose load is to be balanced over the step."""
    router_loss: float = 0.0
    """Weight of their loss."""
    importance: Importance | None = None
    """On the gradients of samples."""


@dataclass(frozen=True)
class Seen:
    """What the forward passes of one step showed, on this process."""

    loss: Tensor
    """Scalar; the mean over processes is the loss of the step."""
    loglik: Tensor
    """(S,), J of each answer of the update, before it."""
    entropy: Tensor
    """(S,), nats per token."""
    kl: Tensor | None
    """(S,), estimate of KL(policy | starting model) per token, on each answer."""
    sampler: SamplerGap
    """How far the sampling engine was from the trainer, on each answer."""
    tokens: int
    """Answer tokens that were learned from."""
    balance: Tensor | None = None
    """Scalar, this process's share in the routers' load-balancing loss, before its weight; None without one."""
    numbers: Mapping[str, Tensor] = field(default_factory=dict)
    """(S,) each, what the method's loss reports, NaN where an answer has none."""
    experts: Mapping[str, float] = field(default_factory=dict)
    """Of a mixture of experts, over all processes: see `grao.engine.experts`."""


def accumulate_gradient(
    model: nn.Module,
    update: Update,
    accelerator: Accelerator,
    engine: Engine,
    token_budget: int,
    minimised: UpdateLoss | None = None,
    before: Before | None = None,
) -> Seen:
    """Runs forward and backward over an update, micro-batch by micro-batch.

    Every process runs the same number of micro-batches, a differentiable zero where it has none left. If no process
    has an answer that counts, nothing is run and the gradients stay None: the optimiser leaves the model alone.

    Args:
        model: the policy as the trainer wrapped it.
        update: the groups of this process.
        accelerator: of the trainer.
        engine: the way through the model.
        token_budget: tokens of a micro-batch.
        minimised: by default the weighted likelihood.
        before: what was seen of the update's tokens before it.
    """
    minimised, before = minimised or UpdateLoss(), before or Before()
    batch, device = update.batch, accelerator.device
    size, lengths = len(batch.answers), batch.lengths
    plan = engine.plan(batch, token_budget, minimised.method is not None and minimised.method.needs.whole_groups)
    plan, parts = in_step(batch, plan, accelerator)
    rounds = len(plan)
    run = _pass(model, update, plan, parts, accelerator, engine, minimised)

    loss, balance = torch.zeros(2, device=device)
    loglik, entropy, kl = (torch.zeros(size, device=device) for _ in range(3))
    gap = torch.zeros(3, size, device=device)
    numbers: dict[str, Tensor] = defaultdict(lambda: torch.full((size,), torch.nan, device=device))
    for turn, (rows, part) in enumerate(zip(plan, parts, strict=True)):
        known = before.select(lengths, rows) if rows else Before()
        indices = to_device(rows, device) if rows else None
        with _synchronised(accelerator, model, last=turn + 1 == rounds):
            seen = run(model, part, _loss(part, indices, known, minimised, numbers))
            share = seen.loss * accelerator.num_processes / update.prompts  # processes are averaged, prompts summed
            accelerator.backward(share)
        loss += share.detach()
        balance += 0.0 if seen.balance is None else seen.balance
        if indices is not None:
            loglik[indices], entropy[indices] = seen.mean.to(loglik), seen.entropy.to(entropy)
            of_answers = to_device(part.lengths, device)
            sampler = to_device(sampler_logps(part.answers, seen.tokens.dtype), device)
            gap[:, indices] = SamplerGap.of(seen.tokens, sampler, of_answers).to(gap)
            if known.frozen is not None:
                kl[indices] = sequence_means(kl_estimate(seen.tokens, known.frozen), of_answers).to(kl)
    measured_kl = None if before.frozen is None else kl
    router_loss = None if minimised.routers is None else balance
    return Seen(loss, loglik, entropy, measured_kl, SamplerGap(*gap), sum(lengths), router_loss, dict(numbers))


def in_step(batch: Batch, plan: Plan, accelerator: Accelerator) -> tuple[Plan, list[Batch]]:
    """A plan with as many micro-batches as that of any process, and each one's answers; a process that has none left
    forwards a stand-in for `[]`, for split weights are gathered in every pass."""
    rounds = int(accelerator.gather(torch.tensor([len(plan)], device=accelerator.device)).max())
    plan = [*plan, *([[]] * (rounds - len(plan)))]
    return plan, [batch.select(rows) if rows else _STAND_IN for rows in plan]


def _loss(
    batch: Batch, indices: Tensor | None, before: Before, minimised: UpdateLoss, numbers: dict[str, Tensor]
) -> Loss | None:
    """What one micro-batch makes of its tokens; leaves what there is to log in `numbers` at `indices`."""
    method, critic, importance = minimised.method, minimised.critic, minimised.importance
    if method is None or (method.weighted_likelihood and importance is None):
        return None
    if indices is None:  # a differentiable zero that every weight takes part in
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
    minimised: UpdateLoss,
) -> Callable[[nn.Module, Batch, Loss | None], Pass]:
    """The engine's own pass, or one whose loss holds the routers' share too."""
    routers = minimised.routers
    if routers is None or not parts:
        return engine.run
    copies = engine.copies(update.batch, plan)
    counts: Tensor | None = None
    if len(parts) > 1 or accelerator.num_processes > 1:  # one more forward pass: the choices of the whole step
        with torch.no_grad():
            chosen = [routed_pass(engine, routers, model, part, copies)[1].counts() for part in parts]
            counts = accelerator.reduce(torch.stack(chosen).sum(dim=0), reduction="sum")
    return BalancedPass(engine, routers, minimised.router_loss * update.prompts, copies, counts)


@contextmanager
def _synchronised(accelerator: Accelerator, model: nn.Module, last: bool) -> Iterator[None]:
    """Gradients meet once, at the last micro-batch; with FSDP and DeepSpeed at each, for none may keep them whole.

    DeepSpeed steps its optimiser on every backward for which `sync_gradients` is true, and accelerate's
    `no_sync` leaves it true, so it is set by hand.
    """
    every = last or accelerator.distributed_type in _EVERY_BACKWARD_SYNCHRONISES
    with nullcontext() if every else accelerator.no_sync(model):
        accelerator.gradient_state._set_sync_gradients(last)
        yield
