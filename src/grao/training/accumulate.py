"""Weighted sequences in, gradients out: the micro-batches of one optimiser step on any number of processes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from grao.models import BalancedPass, Batch, Engine, Pass, Routers, routed_pass
from grao.training.experience import Update

StartingModel = Callable[[], AbstractContextManager[nn.Module]]
"""Opens the model as it was before training."""

_EVERY_BACKWARD_SYNCHRONISES = (DistributedType.FSDP, DistributedType.DEEPSPEED)
_STAND_IN = Batch([[0]], [[0]], [-1], torch.zeros(1))
"""What a process forwards, with weight 0, where others still have something to learn from."""


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


def accumulate_gradient(
    model: nn.Module,
    update: Update,
    accelerator: Accelerator,
    engine: Engine,
    token_budget: int,
    start: StartingModel | None = None,
    routers: Routers | None = None,
    router_loss: float = 0.0,
) -> Seen:
    """Runs forward and backward over an update, micro-batch by micro-batch.

    Every process runs the same number of micro-batches, a differentiable zero where it has none left. If no
    process has a weighted sequence, nothing is run and the gradients stay None: the optimiser leaves the model alone.

    Args:
        model: the policy as the trainer wrapped it.
        update: the sequences of this process.
        accelerator: of the trainer.
        engine: the way through the model.
        token_budget: tokens of a micro-batch.
        start: gives the starting model, where the KL divergence to it is wanted.
        routers: of a mixture of experts whose load is to be balanced over the step.
        router_loss: weight of their loss.
    """
    size = len(update.batch.prompts)
    plan = engine.plan(update.batch, token_budget)
    rounds = int(accelerator.gather(torch.tensor([len(plan)], device=accelerator.device)).max())
    batches = [update.batch.rows(plan[turn]) if turn < len(plan) else _STAND_IN for turn in range(rounds)]
    run: Callable[[nn.Module, Batch], Pass] = engine.run
    if routers is not None and rounds:
        copies = engine.copies(update.batch, plan)
        whole = rounds == 1 and accelerator.num_processes == 1
        counts = None if whole else _choices(model, batches, engine, routers, copies, accelerator)
        run = BalancedPass(engine, routers, router_loss * update.prompts, copies, counts)

    loss, balance = torch.zeros(2, device=accelerator.device)
    loglik, entropy, kl = (torch.zeros(size, device=accelerator.device) for _ in range(3))
    for turn, batch in enumerate(batches):
        rows = plan[turn] if turn < len(plan) else []
        with _synchronised(accelerator, model, last=turn + 1 == rounds):
            seen = run(model, batch)
            part = seen.loss * accelerator.num_processes / update.prompts  # processes are averaged, prompts summed
            accelerator.backward(part)
        loss += part.detach()
        balance += 0.0 if seen.balance is None else seen.balance
        if rows:
            loglik[rows], entropy[rows] = seen.mean, seen.entropy
        if rows and start is not None:
            kl[rows] = _kl(engine, start, batch, seen.tokens)
    return Seen(
        loss=loss,
        loglik=loglik,
        entropy=entropy,
        kl=None if start is None else kl,
        tokens=sum(map(len, update.batch.completions)),
        balance=None if routers is None else balance,
    )


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


@torch.no_grad()
def _kl(engine: Engine, start: StartingModel, batch: Batch, tokens: Tensor) -> Tensor:
    """(rows,), mean over tokens of r - 1 - log r with r = pi_start / pi: never negative, unbiased at temperature 1."""
    with start() as frozen:
        gap = engine.run(frozen, batch).tokens - tokens
    lengths = torch.tensor([len(completion) for completion in batch.completions], device=gap.device)
    return torch.segment_reduce(gap.exp() - 1 - gap, "mean", lengths=lengths)


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
