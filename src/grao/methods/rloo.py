"""RLOO (Ahmadian et al., arXiv 2402.14740): REINFORCE with a leave-one-out baseline.

    R'_i = R_i - kl * sum_t log(pi_old(t) / pi_init(t))        the KL penalty is part of the reward
    A_i  = R'_i - mean of R'_j over the other samples of the group
    loss = -min(s A, clip(s) A),  s = pi(o_i) / pi_old(o_i)

A whole sample is one action, so there is no division by length; nor is there one by the standard deviation. As in TRL's
`RLOOTrainer` the ratio of the whole sample is clipped, which matters from the second update on a batch. Not
implemented: normalising advantages over the batch, clipping rewards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from grao.methods import base
from grao.methods.grpo import centred, clipped_surrogate, without_reference
from grao.settings import NonNegativeFloat, PositiveFloat, PositiveInt
from grao.types import PerAnswer

if TYPE_CHECKING:
    from torch import Tensor


@base.method
class RLOO(base.Method):
    """REINFORCE with a leave-one-out baseline (arXiv 2402.14740)."""

    name: Literal["rloo"] = "rloo"
    """The method."""
    clip: PositiveFloat = 0.2
    """How far the probability ratio of a sample may move from 1 before it is clipped."""
    kl: NonNegativeFloat = 0.05
    """Penalty per nat of log-ratio to the initial policy."""
    updates: PositiveInt = 1
    """Optimiser steps per batch of samples."""

    @property
    def needs(self) -> base.Needs:
        """Old log-probabilities for several updates per batch; frozen policy and whole groups for the KL penalty."""
        penalised = self.kl > 0
        return base.Needs(
            references=False, old=self.updates > 1, frozen=penalised, whole_groups=penalised, updates=self.updates
        )

    def weigh(self, groups: base.StepGroups) -> base.Weighted:
        """A = R - mean of the other samples. Without a KL penalty, samples with A = 0 get weight 0."""
        shares = base.scored_share(groups.rewards)
        advantages = leave_one_out(centred(groups.rewards), groups.rewards.isfinite().sum(dim=1, keepdim=True))
        weights = shares if self.kl else shares * (advantages.nan_to_num(0.0) != 0)
        return base.Weighted(PerAnswer.of(weights), without_reference(advantages), PerAnswer.of(advantages))

    def loss(self, tokens: base.TokenView) -> base.TokenLoss:
        """Clipped surrogate of each sample.

        The baseline is linear, so the KL penalty can be centred separately, by a baseline of its own.
        """
        advantages = tokens.signals
        if self.kl:
            distances = tokens.total(tokens.old - tokens.frozen)  # (S,), nats
            same_group = (tokens.groups[:, None] == tokens.groups).to(distances)  # (S, S)
            count = same_group.sum(dim=1)
            advantages = advantages - self.kl * leave_one_out(distances - same_group @ distances / count, count)
        surrogate, clipped = clipped_surrogate(tokens.total(tokens.log_ratio), advantages, self.clip)
        return base.TokenLoss(surrogate, {"ratio/clipped": clipped})

    def report(self, weighted: base.Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Report the size of the advantages, groups without signal and dropped groups."""
        return base.group_numbers(weighted.advantages)


def leave_one_out(distances: Tensor, count: Tensor) -> Tensor:
    """Turn distances from the mean of all members into distances from the mean of the others.

    Args:
        distances: value - mean of all members, any shape.
        count: number of members, broadcastable to `distances`.

    Returns:
        Value - mean of the other members, in the shape of `distances`.
    """
    return distances * count / (count - 1).clamp(min=1)
