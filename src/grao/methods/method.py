"""What the trainer asks of a method. Everything else is the engine's.

A method sees B prompts, each with up to G + 2 answers: G samples, the reference, and a rejected answer if the data has
one. It gives each a weight. Where the update is a weighted likelihood that is all (`loss` is None); otherwise
`loss` turns the log-probabilities of the answers' tokens into one loss per answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor

from grao.core import Advantages
from grao.methods.tokens import Before, TokenView


class Role(IntEnum):
    """What an answer is."""

    SAMPLE = 0
    REFERENCE = 1
    REJECTED = 2


@dataclass(frozen=True)
class Needs:
    """What a method has to be given."""

    samples: bool = True
    """Samples with rewards; without them nothing is sampled in training."""
    rejected: bool = False
    """A rejected answer to every prompt."""
    old: bool = False
    """Log-probabilities as they were before the first update on these answers."""
    frozen: bool = False
    """Log-probabilities under the model as it was before training."""
    critic: bool = False
    """A value of every token's state, from a head on the policy's last hidden state."""
    whole_groups: bool = False
    """All answers to a prompt in one micro-batch."""
    updates: int = 1
    """Optimiser steps on one batch of samples."""


@dataclass(frozen=True)
class Groups:
    """B prompts of one step on this process, before any weight."""

    rewards: Tensor
    """R(o, y), (B, G), NaN = missing, relative to a reference of reward 0. Without samples G is 0."""
    lengths: Tensor
    """(B, G + 2), tokens of samples, reference and rejected answer; 0 = there is none."""
    mean_reference: float
    """Tokens of a reference, averaged over all prompts of the step on all processes."""
    step: int
    """From 0."""


@dataclass(frozen=True)
class Weighted:
    """B groups with what each of their answers counts; columns are G samples, reference, rejected."""

    weights: Tensor
    """(B, G + 2), finite. For a weighted likelihood what J(answer) is multiplied with; 0 = need not be forwarded."""
    advantages: Advantages = field(default_factory=lambda: Advantages(torch.zeros(0, 0), torch.zeros(0)))
    """Where the weights came from, for the log; empty if from elsewhere."""
    shares: Tensor | None = None
    """(B, G + 2), what each answer's `loss` is multiplied with; 0 = need not be forwarded. None without a `loss`."""

    @property
    def counts(self) -> Tensor:
        """(B, G + 2), what each answer's likelihood, or its `loss`, is multiplied with."""
        return self.weights if self.shares is None else self.shares


@dataclass(frozen=True)
class TokenLoss:
    """Of S answers."""

    loss: Tensor
    """(S,), with gradient; the mean over a step's prompts of shares times loss is what goes down."""
    numbers: Mapping[str, Tensor] = field(default_factory=dict)
    """Worth logging, (S,) each, NaN where an answer has none."""


class Method(Protocol):
    """An alignment method."""

    @property
    def needs(self) -> Needs:
        """What it has to be given."""
        ...

    @property
    def loss(self) -> Callable[[TokenView], TokenLoss] | None:
        """Loss of each answer from the log-probabilities of its tokens; None for a weighted likelihood."""
        ...

    @property
    def credit(self) -> Callable[[Before, Tensor, Sequence[int]], Before] | None:
        """Adds an advantage of every token to what was seen before the update; None where an answer has one weight.

        Its arguments: the tokens before the update, (S,) weights, and the tokens of each answer.
        """
        ...

    def weigh(self, groups: Groups) -> Weighted:
        """What each answer counts."""
        ...

    def report(self, weighted: Weighted, completion_loglik: Tensor, reference_loglik: Tensor) -> dict[str, Tensor]:
        """Numbers worth logging, (B,) each, NaN where a group has none.

        Args:
            weighted: what `weigh` gave.
            completion_loglik: J(o_i), (B, G), nats per token; 0 where nothing was forwarded.
            reference_loglik: J(y), (B,).
        """
        ...


def columns(samples: Tensor, reference: Tensor | float = 0.0, rejected: Tensor | float = 0.0) -> Tensor:
    """(B, G + 2) from (B, G) and twice (B,) or one number; NaN becomes 0."""
    last = [
        torch.as_tensor(value, dtype=samples.dtype).expand(len(samples))[:, None] for value in (reference, rejected)
    ]
    return torch.cat([samples, *last], dim=1).nan_to_num(0.0)


def scored_share(rewards: Tensor) -> Tensor:
    """(B, G), 1 / (scored samples of the group) where a sample is scored and its group has at least two, else 0."""
    scored = rewards.isfinite()
    count = scored.sum(dim=1, keepdim=True)
    return (scored & (count > 1)) / count.clamp(min=1).to(rewards.dtype)
