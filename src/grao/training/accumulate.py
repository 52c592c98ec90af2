"""An update in, gradients out: the micro-batches of one optimiser step on any number of processes."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from grao.core.transfer import sent
from grao.methods import Before, TokenLoss, TokenView
from grao.methods.tokens import kl_estimate
from grao.models import BalancedPass, Batch, Engine, Loss, Pass, Routers, Tokens, routed_pass
from grao.models.engine import sequence_means
from grao.training.experience import Update

_EVERY_BACKWARD_SYNCHRONISES = (DistributedType.FSDP, DistributedType.DEEPSPEED)
_STAND_IN = Batch([[0]], [[0]], [-1], torch.zeros(1))
"""What a process forwards, with weight 0, where others still have something to learn from."""


@dataclass(frozen=True)
class Objective:
    """What is minimised."""

    loss: Callable[[TokenView], TokenLoss] | None = None
    """Of a method; None for the weighted likelihood."""
    critic: nn.Module | None = None
    """(N, D) hidden states -> (N,) values."""
    whole_groups: bool = False
    """The loss needs all answers to a prompt together."""
    routers: Routers | None = None
    """Of a mixture of experts whose load is to be balanced over the step."""
    router_loss: float = 0.0
    """Weight of their loss."""


@dataclass(frozen=True)
class Seen:
    """What the forward passes of one step showed, on this process."""

    loss: Tensor
    """Scalar; the mean over processes is the loss of the step."""
    loglik: Tensor
    """(S,), J of each sequence of the update, before it."""
    entropy: Tensor
    """(S,), nats per token."""
    kl: Tensor | None
    """(S,), estimate of KL(policy | starting model) per token, on each sequence."""
    tokens: int
    """Completion tokens that were learned from."""
    balance: Tensor | None = None
    """Scalar, this process's share in the routers' load-balancing loss, before its weight; None without one."""
    numbers: Mapping[str, Tensor] = field(default_factory=dict)
    """(S,) each, what the method's loss has to say, NaN where a sequence has none."""


def accumulate_gradient(
    model: nn.Module,
    update: Update,
    accelerator: Accelerator,
    engine: Engine,
    token_budget: int,
    objective: Objective | None = None,
    before: Before | None = None,
) -> Seen:
    """Runs forward and backward over an update, micro-batch by micro-batch.

    Every process runs the same number of micro-batches, a differentiable zero where it has none left. If no process
    has a sequence that counts, nothing is run and the gradients stay None: the optimiser leaves the model alone.

    Args:
        model: the policy as the trainer wrapped it.
        update: the sequences of this process.
        accelerator: of the trainer.
        engine: the way through the model.
        token_budget: tokens of a micro-batch.
        objective: by default the weighted likelihood.
        before: what was seen of the update's tokens before it.
    """
    objective, before = objective or Objective(), before or Before()
    size, lengths = len(update.batch.prompts), update.batch.lengths()[1]
    plan = engine.plan(update.batch, token_budget, objective.whole_groups)
    rounds = int(accelerator.gather(torch.tensor([len(plan)], device=accelerator.device)).max())
    batches = [update.batch.rows(plan[turn]) if turn < len(plan) else _STAND_IN for turn in range(rounds)]
    run = _way(model, update, plan, batches, accelerator, engine, objective)

    loss, balance = torch.zeros(2, device=accelerator.device)
    loglik, entropy, kl = (torch.zeros(size, device=accelerator.device) for _ in range(3))
    numbers: dict[str, Tensor] = defaultdict(lambda: torch.full((size,), torch.nan, device=accelerator.device))
    for turn, batch in enumerate(batches):
        rows = plan[turn] if turn < len(plan) else []
        known = before.pick(lengths, rows) if rows else Before()
        with _synchronised(accelerator, model, last=turn + 1 == rounds):
            seen = run(model, batch, _loss(update, rows, known, objective, numbers))
            part = seen.loss * accelerator.num_processes / update.prompts  # processes are averaged, prompts summed
            accelerator.backward(part)
        loss += part.detach()
        balance += 0.0 if seen.balance is None else seen.balance
        if rows:
            places = sent(rows, accelerator.device)
            loglik[places], entropy[places] = seen.mean.to(loglik), seen.entropy.to(entropy)
            if known.frozen is not None:
                tokens = kl_estimate(seen.tokens, known.frozen)
                kl[places] = sequence_means(tokens, sent(batch.lengths()[1], tokens.device)).to(kl)
    return Seen(
        loss=loss,
        loglik=loglik,
        entropy=entropy,
        kl=None if before.frozen is None else kl,
        tokens=sum(lengths),
        balance=None if objective.routers is None else balance,
        numbers=dict(numbers),
    )


def _loss(
    update: Update, rows: Sequence[int], before: Before, objective: Objective, numbers: dict[str, Tensor]
) -> Loss | None:
    """What one micro-batch makes of its tokens; leaves what there is to log in `numbers`."""
    method_loss, critic = objective.loss, objective.critic
    if method_loss is None:
        return None
    if not rows:  # a differentiable zero that every weight takes part in
        return lambda tokens: 0.0 * (tokens.logps.sum() + (critic(tokens.hidden).sum() if critic else 0.0))
    batch = update.batch.rows(rows)

    def loss(tokens: Tokens) -> Tensor:
        device = tokens.logps.device
        places = sent(rows, device)
        view = TokenView(
            logps=tokens.logps,
            entropies=tokens.entropies,
            values=critic(tokens.hidden) if critic else None,
            before=before,
            weights=sent(update.weights[list(rows)].to(tokens.logps.dtype), device),
            roles=sent(update.roles[list(rows)], device),
            groups=sent(batch.groups, device),
            lengths=sent(batch.lengths()[1], device),
        )
        found = method_loss(view)
        for name, values in found.numbers.items():
            numbers[name][places] = values.detach().to(numbers[name])
        return (sent(batch.weights.to(found.loss.dtype), device) * found.loss).sum()

    return loss


def _way(
    model: nn.Module,
    update: Update,
    plan: Sequence[Sequence[int]],
    batches: Sequence[Batch],
    accelerator: Accelerator,
    engine: Engine,
    objective: Objective,
) -> Callable[[nn.Module, Batch, Loss | None], Pass]:
    """The engine's own pass, or one whose loss holds the routers' share too."""
    routers = objective.routers
    if routers is None or not batches:
        return engine.run
    copies = engine.copies(update.batch, [list(rows) for rows in plan])
    whole = len(batches) == 1 and accelerator.num_processes == 1
    counts = None if whole else _choices(model, batches, engine, routers, copies, accelerator)
    return BalancedPass(engine, routers, objective.router_loss * update.prompts, copies, counts)


@torch.no_grad()
def _choices(
    model: nn.Module,
    batches: Sequence[Batch],
    engine: Engine,
    routers: Routers,
    copies: Mapping[int, int],
    accelerator: Accelerator,
) -> Tensor:
    """(E + 1,), what the routers choose in the whole step, on all processes: one more forward pass."""
    counts = [routed_pass(engine, routers, model, batch, copies)[1].counts() for batch in batches]
    return cast(Tensor, accelerator.reduce(torch.stack(counts).sum(dim=0), reduction="sum"))


@contextmanager
def _synchronised(accelerator: Accelerator, model: nn.Module, last: bool) -> Iterator[None]:
    """Gradients meet once, at the last micro-batch; FSDP and DeepSpeed have their own rhythm.

    DeepSpeed steps its optimiser on every backward for which `sync_gradients` is true, and accelerate's
    `no_sync` leaves it true, so it is set by hand.
    """
    every = last or accelerator.distributed_type in _EVERY_BACKWARD_SYNCHRONISES
    with nullcontext() if every else accelerator.no_sync(model):
        accelerator.gradient_state._set_sync_gradients(last)
        yield
