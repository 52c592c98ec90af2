"""What one pass through the model shows, and what a way through the model promises."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from grao.types import Batch

Plan = list[list[int]]
"""Micro-batches as numbers of answers, each exactly once."""


@dataclass(frozen=True)
class Tokens:
    """What a forward pass shows of the N answer tokens of a batch, one answer behind the other."""

    logps: Tensor
    """(N,), log-likelihood of each, with gradient."""
    entropies: Tensor
    """(N,), of the distributions that they are drawn from, in nats. Without gradient."""
    hidden: Tensor
    """(N, D), last hidden states that predict them, with gradient."""


Loss = Callable[[Tokens], Tensor]
"""What is minimised in place of -sum_s w_s * J_s: a scalar."""


@dataclass(frozen=True)
class Pass:
    """What one forward pass showed."""

    loss: Tensor
    """-sum_s w_s * J_s, or what the loss that was given made of the tokens; with gradient."""
    mean: Tensor
    """(S,), J(x): mean log-likelihood per token in nats. Without gradient, as all that follows."""
    entropy: Tensor
    """(S,), mean entropy in nats."""
    tokens: Tensor
    """(N,), log-likelihood of each answer token, one answer behind the other."""
    balance: Tensor | None = None
    """Scalar, share of this pass in the routers' load-balancing loss of its step, where that is part of the loss."""


class Engine(Protocol):
    """A way through the model."""

    def plan(self, batch: Batch, token_budget: int, whole_groups: bool = False) -> Plan:
        """Micro-batches for `run`, as numbers of answers; with `whole_groups` a group that is too long goes alone."""

    def run(self, model: nn.Module, batch: Batch, loss: Loss | None = None) -> Pass:
        """One micro-batch through the forward of `model` as it was given (wrapped or not)."""

    def copies(self, batch: Batch, plan: Plan) -> Counter[int]:
        """How many times each group's prompt is forwarded in a plan."""

    def shares(self, batch: Batch, copies: Mapping[int, int]) -> Tensor:
        """(T,), how much each token of a micro-batch's forward counts among the unique ones of the step: a prompt that
        is forwarded n times 1/n each time, padding and answers with weight 0 nothing."""

    def answer_places(self, batch: Batch) -> list[int]:
        """N, where each answer token lies among the tokens of a micro-batch's forward."""


def sequence_means(values: Tensor, lengths: Tensor) -> Tensor:
    """(N,) values of S answers one behind the other, and their lengths (S,) -> (S,) means."""
    return torch.segment_reduce(values, "mean", lengths=lengths, unsafe=True)  # a check would wait for the device


def transformers_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model (or its adapter) inside wrappers such as DistributedDataParallel."""
    while not hasattr(model, "get_output_embeddings"):
        model = cast(nn.Module, model.module)
    return cast(PreTrainedModel, model)


def base_model(policy: nn.Module) -> PreTrainedModel:
    """The transformers model itself; with LoRA its layers are still those of the adapter."""
    return cast(PreTrainedModel, policy.get_base_model() if isinstance(policy, PeftModel) else policy)


def checkpoint_activations(model: nn.Module, options: Any = None) -> None:
    """Switches activation checkpointing on, under the name that this version of transformers has for it."""
    inner: Any = model
    switch = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
    switch(options)


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Within it, the model is in training or in evaluation mode."""
    before = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(before)


def sent(values: Sequence[Any] | Tensor, device: torch.device) -> Tensor:
    """These numbers as a tensor there. The host does not wait for what a GPU still has to do."""
    return torch.as_tensor(values).to(device, non_blocking=device.type == "cuda")


def check_budget(token_budget: int) -> None:
    """Raises: ValueError if no token fits into a micro-batch."""
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}")
