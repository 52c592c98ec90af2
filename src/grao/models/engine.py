"""What goes through the model together, what one pass shows, and what an engine promises."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from grao.core import Plan

TokenIds = Sequence[int]


@dataclass(frozen=True)
class Batch:
    """S sequences that go through the model together."""

    prompts: Sequence[TokenIds]
    completions: Sequence[TokenIds]
    groups: Sequence[int]
    """Sequences of one group have the same prompt."""
    weights: Tensor
    """(S,), constants."""

    def lengths(self) -> tuple[list[int], list[int]]:
        """Tokens of each prompt and of each completion."""
        return [len(prompt) for prompt in self.prompts], [len(completion) for completion in self.completions]

    def rows(self, indices: Sequence[int]) -> "Batch":
        """Some of them, in the order given."""
        return Batch(
            [self.prompts[index] for index in indices],
            [self.completions[index] for index in indices],
            [self.groups[index] for index in indices],
            self.weights[list(indices)],
        )


@dataclass(frozen=True)
class Tokens:
    """What a forward pass shows of the N completion tokens of a batch, one sequence behind the other."""

    logps: Tensor
    """(N,), log-likelihood of each, with gradient."""
    entropies: Tensor
    """(N,), of the distributions that they are drawn from, in nats. Without gradient."""
    hidden: Tensor
    """(N, D), last hidden states that predict them, with gradient."""


Loss = Callable[[Tokens], Tensor]
"""What goes down in place of -sum_s w_s * J_s: a scalar."""


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
    """(N,), log-likelihood of each completion token, one sequence behind the other."""
    balance: Tensor | None = None
    """Scalar, share of this pass in the routers' load-balancing loss of its step, where that is part of the loss."""


def sequence_means(values: Tensor, lengths: Tensor) -> Tensor:
    """(N,) values of S sequences one behind the other, and their lengths (S,) -> (S,) means."""
    return torch.segment_reduce(values, "mean", lengths=lengths, unsafe=True)  # a check would wait for the device


class Engine(Protocol):
    """A way through the model."""

    def plan(self, batch: Batch, token_budget: int, whole_groups: bool = False) -> Plan:
        """Micro-batches for `run`; with `whole_groups` no group is split, and one that is too long goes alone."""
        ...

    def run(self, model: nn.Module, batch: Batch, loss: Loss | None = None) -> Pass:
        """One micro-batch through the forward of `model` as it was given (wrapped or not)."""
        ...

    def copies(self, batch: Batch, plan: Plan) -> Counter[int]:
        """How many times each group's prompt is forwarded in a plan."""
        ...

    def shares(self, batch: Batch, copies: Mapping[int, int]) -> Tensor:
        """(T,), how much each token of a micro-batch's forward counts among the unique ones of the step: a prompt that
        is forwarded n times 1/n each time, padding and sequences with weight 0 nothing."""
        ...
