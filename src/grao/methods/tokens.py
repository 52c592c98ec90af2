"""The tokens of some answers, one answer behind the other, as a method's loss sees them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from grao.core.transfer import sent


@dataclass(frozen=True)
class Before:
    """N tokens as they were before the first update on them: constants. None where no method needs it."""

    old: Tensor | None = None
    """(N,), log-probability under the policy that is about to be updated."""
    frozen: Tensor | None = None
    """(N,), log-probability under the model before training."""
    values: Tensor | None = None
    """(N,), the critic's value of the state before the token."""
    advantages: Tensor | None = None
    """(N,), advantage of each token, where a method has one for each."""
    returns: Tensor | None = None
    """(N,), what the critic is to learn."""

    def pick(self, lengths: Sequence[int], rows: Sequence[int]) -> "Before":
        """The tokens of some answers, in their order; `lengths` are the tokens of all."""
        known = {item.name: value for item in fields(self) if (value := getattr(self, item.name)) is not None}
        if not known:
            return self
        places = sent(token_places(lengths, rows), next(iter(known.values())).device)
        return Before(**{name: value[places] for name, value in known.items()})


@dataclass(frozen=True)
class TokenView:
    """N tokens of the S answers of a micro-batch."""

    logps: Tensor
    """(N,), log pi(x_t | q, x_<t), with gradient."""
    entropies: Tensor
    """(N,), of the distribution each token was drawn from, in nats. Without gradient."""
    values: Tensor | None
    """(N,), the critic's, with gradient."""
    before: Before
    """Of the same tokens."""
    weights: Tensor
    """(S,), `Weighted.weights` of each answer."""
    roles: Tensor
    """(S,), a `Role` each."""
    groups: Tensor
    """(S,), the group of each answer."""
    lengths: Tensor
    """(S,), tokens of each answer."""

    @property
    def old(self) -> Tensor:
        """(N,), log-probability before the first update; while that is being made, the present one as a constant."""
        return self.logps.detach() if self.before.old is None else self.before.old

    @property
    def frozen(self) -> Tensor:
        """(N,), log-probability under the model before training."""
        return known(self.before.frozen)

    def total(self, values: Tensor) -> Tensor:
        """(N,) -> (S,), sum over each answer's tokens."""
        return values.new_zeros(len(self.lengths)).index_add(0, self._owners(), values)

    def mean(self, values: Tensor) -> Tensor:
        """(N,) -> (S,), mean over each answer's tokens."""
        return self.total(values) / self.lengths

    def spread(self, values: Tensor) -> Tensor:
        """(S,) -> (N,), each answer's value for each of its tokens."""
        return values.repeat_interleave(self.lengths, output_size=len(self.logps))

    def only(self, role: int) -> Tensor:
        """(N,) bool, tokens of answers with this role."""
        return self.spread(self.roles == role)

    def with_logps(self, logps: Tensor) -> Self:
        """The same with other log-probabilities."""
        return replace(self, logps=logps)

    def _owners(self) -> Tensor:
        return self.spread(torch.arange(len(self.lengths), device=self.lengths.device))


def token_places(lengths: Sequence[int], rows: Sequence[int]) -> Tensor:
    """Places of some answers' tokens among those of all, one answer behind the other."""
    ends = torch.tensor([0, *lengths]).cumsum(dim=0).tolist()
    return torch.cat([torch.arange(ends[row], ends[row + 1]) for row in rows])


def known(value: Tensor | None) -> Tensor:
    """The value, of a method that asked for it in its `needs`."""
    if value is None:
        raise ValueError("a method uses what it does not ask for in its `needs`")
    return value


def kl_estimate(logps: Tensor, frozen: Tensor) -> Tensor:
    """r - 1 - log r with r = pi_start / pi, per token: never negative, unbiased for samples of pi (k3 of Schulman)."""
    gap = frozen - logps
    return gap.exp() - 1 - gap
