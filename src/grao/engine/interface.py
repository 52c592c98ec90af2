"""The interface of training engines, and the result of one forward pass."""

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
"""Micro-batches as lists of answer indices; every answer appears exactly once."""


@dataclass(frozen=True)
class Tokens:
    """Outputs for the N answer tokens of a batch, with the answers concatenated."""

    logps: Tensor
    """(N,), log-likelihood of each token in nats, with gradient."""
    entropies: Tensor
    """(N,), entropy of each next-token distribution in nats, without gradient."""
    hidden: Tensor
    """(N, D), last-layer hidden states that predict the tokens, with gradient."""


Loss = Callable[[Tokens], Tensor]
"""Returns the scalar to minimise in place of the weighted likelihood loss -sum_s w_s * J_s."""


@dataclass(frozen=True)
class Pass:
    """The result of one forward pass over S answers with N tokens in total."""

    loss: Tensor
    """Scalar: -sum_s w_s * J_s or the custom loss, plus any load-balancing loss. The only field with a gradient."""
    mean: Tensor
    """(S,), J(x): mean log-likelihood per token in nats."""
    entropy: Tensor
    """(S,), mean entropy in nats."""
    tokens: Tensor
    """(N,), log-likelihood of each answer token in nats, with the answers concatenated."""
    balance: Tensor | None = None
    """Scalar: this pass's share of the step's load-balancing loss; None if that loss is not used."""


class Engine(Protocol):
    """Lays out batches and runs them through the model."""

    def plan(self, batch: Batch, token_budget: int, whole_groups: bool = False) -> Plan:
        """Split a batch into micro-batches for `run`.

        Args:
            batch: the answers of a step.
            token_budget: most tokens of a micro-batch, counted as this engine forwards them.
            whole_groups: never split a group; a group above the budget gets a micro-batch of its own.
        """

    def run(self, model: nn.Module, batch: Batch, loss: Loss | None = None) -> Pass:
        """Run one micro-batch through the forward pass of `model`.

        Args:
            model: called as it is, so that the hooks of a wrapper (DDP, FSDP) run.
            batch: the micro-batch.
            loss: custom loss; None is the weighted likelihood loss of eq. 3.
        """

    def copies(self, batch: Batch, plan: Plan) -> Counter[int]:
        """Return how many times a plan forwards each group's prompt, by group number."""

    def shares(self, batch: Batch, copies: Mapping[int, int]) -> Tensor:
        """Return (T,) factors for the tokens of a micro-batch's forward, so that each token of the step counts once.

        A prompt that is forwarded n times counts 1/n each time; padding and answers with weight 0 count 0.
        """

    def answer_indices(self, batch: Batch) -> list[int]:
        """Return, for each of the N answer tokens, its index among the flattened tokens of a micro-batch's forward."""


def sequence_means(values: Tensor, lengths: Tensor) -> Tensor:
    """Return the (S,) means of S concatenated answers, from their (N,) token values and (S,) lengths."""
    return torch.segment_reduce(values, "mean", lengths=lengths, unsafe=True)  # checking lengths would sync the GPU


def transformers_model(model: nn.Module) -> PreTrainedModel:
    """Return the transformers or peft model inside wrappers such as DistributedDataParallel."""
    while not hasattr(model, "get_output_embeddings"):
        model = cast(nn.Module, model.module)
    return cast(PreTrainedModel, model)


def base_model(policy: nn.Module) -> PreTrainedModel:
    """Return the transformers model itself; with LoRA, its layers are still peft's adapted layers."""
    return cast(PreTrainedModel, policy.get_base_model() if isinstance(policy, PeftModel) else policy)


def checkpoint_activations(model: nn.Module, options: Any = None) -> None:
    """Enable activation checkpointing, by whichever method this version of transformers has.

    Args:
        model: a transformers or peft model.
        options: argument of that method.
    """
    inner: Any = model
    switch = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
    switch(options)


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put the model into training or evaluation mode inside the context."""
    before = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(before)


def to_device(values: Sequence[Any] | Tensor, device: torch.device) -> Tensor:
    """Return the values as a tensor on `device`, without making the host wait for pending GPU work."""
    return torch.as_tensor(values).to(device, non_blocking=device.type == "cuda")


def check_budget(token_budget: int) -> None:
    """Check that a token budget is at least 1.

    Raises:
        ValueError: if it does not.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, got {token_budget}")
