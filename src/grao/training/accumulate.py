"""Weighted sequences in, gradients out: the micro-batches of one optimiser step on any number of processes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from grao.core import plan_micro_batches, weighted_likelihood_loss
from grao.models import Likelihood, completion_likelihood
from grao.training.experience import TokenIds, Update

StartingModel = Callable[[], AbstractContextManager[nn.Module]]
"""Opens the model as it was before training."""

_EVERY_BACKWARD_SYNCHRONISES = (DistributedType.FSDP, DistributedType.DEEPSPEED)


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
    """Forwarded tokens, padding left out."""


def accumulate_gradient(
    model: nn.Module,
    update: Update,
    accelerator: Accelerator,
    token_budget: int,
    pad_id: int,
    start: StartingModel | None = None,
) -> Seen:
    """Runs forward and backward over an update, micro-batch by micro-batch.

    Every process runs the same number of micro-batches, a differentiable zero where it has none left. If no
    process has a weighted sequence, nothing is run and the gradients stay None: the optimiser leaves the model alone.

    Args:
        model: the policy as the trainer wrapped it.
        update: the sequences of this process.
        accelerator: of the trainer.
        token_budget: padded tokens of a micro-batch.
        pad_id: any valid token.
        start: gives the starting model, where the KL divergence to it is wanted.
    """
    lengths = [len(p) + len(c) for p, c in zip(update.prompt_ids, update.completion_ids, strict=True)]
    plan = plan_micro_batches(lengths, token_budget)
    rounds = int(accelerator.gather(torch.tensor([len(plan)], device=accelerator.device)).max())
    plan += [[] for _ in range(rounds - len(plan))]

    loss = torch.zeros((), device=accelerator.device)
    loglik, entropy, kl = (torch.zeros(len(lengths), device=accelerator.device) for _ in range(3))
    for turn, rows in enumerate(plan):
        prompts = [update.prompt_ids[row] for row in rows]
        completions = [update.completion_ids[row] for row in rows]
        with _synchronised(accelerator, model, last=turn + 1 == rounds):
            seen = _forward(model, prompts, completions, pad_id)
            weights = update.weights[rows].to(seen.mean)
            part = weighted_likelihood_loss(weights, seen.mean[: len(rows)], update.prompts)
            part = part + 0.0 * seen.mean.sum()  # keeps the graph where this process has no row
            accelerator.backward(part * accelerator.num_processes)  # processes are averaged, prompts are summed
        loss += part.detach() * accelerator.num_processes
        loglik[rows], entropy[rows] = seen.mean.detach()[: len(rows)], seen.entropy[: len(rows)]
        if start is not None and rows:
            kl[rows] = _kl(seen, start, prompts, completions, pad_id)
    return Seen(loss=loss, loglik=loglik, entropy=entropy, kl=None if start is None else kl, tokens=sum(lengths))


def _forward(model: nn.Module, prompts: list[TokenIds], completions: list[TokenIds], pad_id: int) -> Likelihood:
    """The likelihood of the rows, or of a single stand-in where there are none."""
    return completion_likelihood(model, prompts or [[pad_id]], completions or [[pad_id]], pad_id)


@torch.no_grad()
def _kl(
    seen: Likelihood, start: StartingModel, prompts: list[TokenIds], completions: list[TokenIds], pad_id: int
) -> Tensor:
    """(rows,), mean over tokens of r - 1 - log r with r = pi_start / pi: never negative, unbiased at temperature 1."""
    with start() as frozen:
        gap = completion_likelihood(frozen, prompts, completions, pad_id).tokens - seen.tokens.detach()
    return ((gap.exp() - 1 - gap) * seen.mask).sum(dim=1) / seen.mask.sum(dim=1)


@contextmanager
def _synchronised(accelerator: Accelerator, model: nn.Module, last: bool) -> Iterator[None]:
    """Gradients meet once, at the last micro-batch; FSDP and DeepSpeed have their own rhythm.

    DeepSpeed steps its optimiser on every backward for which `sync_gradients` is true, and accelerate's
    `no_sync` leaves it true, so it is set by hand.
    """
    accelerator.gradient_state._set_sync_gradients(last)
    quiet = last or accelerator.distributed_type in _EVERY_BACKWARD_SYNCHRONISES
    with nullcontext() if quiet else accelerator.no_sync(model):
        accelerator.gradient_state._set_sync_gradients(last)
        yield
