"""RLOO (Ahmadian et al., arXiv 2402.14740): REINFORCE on whole samples, each against the mean of the others.

    R'_i = R_i - kl * sum_t log(pi_old(t) / pi_start(t))       the KL penalty is part of the reward
    A_i  = R'_i - mean of R'_j over the other samples of the group
    loss = -min(s A, clip(s) A),  s = pi(o_i) / pi_old(o_i)

No deviation, no length: a sample is one action. As in TRL's `RLOOTrainer` the ratio of the whole sample is clipped,
which matters from the second update on a batch on. Left out: advantages normalised over the batch, clipped rewards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from grao.methods import base
from grao.methods.grpo import among_samples, centred, clipped_surrogate
from grao.settings import NonNegativeFloat, PositiveFloat, PositiveInt
from grao.types import PerAnswer

if TYPE_CHECKING:
    from torch import Tensor


@base.method
class RLOO(base.Method):
    """Each sample against the mean of the others (arXiv 2402.14740)."""

    name: Literal["rloo"] = "rloo"
    """The method."""
    clip: PositiveFloat = 0.2
    """Half-width of the interval in which the probability ratio of a sample counts."""
    kl: NonNegativeFloat = 0.05
    """Penalty for each nat of distance from the model before training."""
    updates: PositiveInt = 1
    """Optimiser steps on one batch of samples."""

    @property
    def needs(self) -> base.Needs:
        """For the penalty the frozen policy, and all samples of a group at once."""
        penalised = self.kl > 0
        return base.Needs(
            references=False, old=self.updates > 1, frozen=penalised, whole_groups=penalised, updates=self.updates
        )

    def weigh(self, groups: base.StepGroups) -> base.Weighted:
        """A = n / (n - 1) * (R - mean), which is R - mean of the others; without a penalty only where it is not 0."""
        shares = base.scored_share(groups.rewards)
        advantages = left_out(centred(groups.rewards), groups.rewards.isfinite().sum(dim=1, keepdim=True))
        weights = shares if self.kl else shares * (advantages.nan_to_num(0.0) != 0)
        return base.Weighted(PerAnswer.of(weights), among_samples(advantages), PerAnswer.of(advantages))

    def loss(self, tokens: base.TokenView) -> base.TokenLoss:
        """Clipped surrogate of each sample; the penalty takes its own baseline off, for both are linear."""
        advantages = tokens.signals
        if self.kl:
            distances = tokens.total(tokens.old - tokens.frozen)  # (S,), in nats
            together = (tokens.groups[:, None] == tokens.groups).to(distances)  # (S, S)
            count = together.sum(dim=1)
            advantages = advantages - self.kl * left_out(distances - together @ distances / count, count)
        surrogate, clipped = clipped_surrogate(tokens.total(tokens.log_ratio), advantages, self.clip)
        return base.TokenLoss(surrogate, {"ratio/clipped": clipped})

    def report(self, weighted: base.Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Size of the advantages, and groups that have none."""
        return base.group_numbers(weighted.advantages)


def left_out(distances: Tensor, count: Tensor) -> Tensor:
    """Distances from the mean of `count` members as distances from the mean of the others."""
    return distances * count / (count - 1).clamp(min=1)
