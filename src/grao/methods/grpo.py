"""GRPO (Shao et al., arXiv 2402.03300): samples against each other, with a clipped ratio and a pull to the start.

Eq. 3 of the paper; means over a sample's tokens, then over samples (TRL: `loss_type="grpo"`). The reference answer
takes part only through the rewards, which are relative to it. The KL estimate is multiplied by the ratio r, without
which its gradient is not that of the KL divergence (DeepSeek-V3.2, arXiv 2512.02556; as in TRL).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from grao.lazy import core, torch
from grao.methods import base
from grao.settings import NonNegativeFloat, PositiveFloat, PositiveInt
from grao.types import PerAnswer

if TYPE_CHECKING:
    from torch import Tensor

    from grao.core import Advantages

_EPSILON = 1e-4
"""Added to the deviation, as in TRL."""


@base.method
class GRPO(base.Method):
    """Samples against each other (arXiv 2402.03300)."""

    name: Literal["grpo"] = "grpo"
    """The method."""
    clip: PositiveFloat = 0.2
    """How far below 1 a probability ratio counts, and above it where `clip_high` does not say otherwise."""
    clip_high: PositiveFloat | None = None
    """How far above 1 it counts."""
    kl: NonNegativeFloat = 0.04
    """Weight of the KL divergence to the model before training."""
    updates: PositiveInt = 1
    """Optimiser steps on one batch of samples."""

    @property
    def needs(self) -> base.Needs:
        """Old log-probabilities for more than one update, the frozen policy for the KL term."""
        return base.Needs(references=False, old=self.updates > 1, frozen=self.kl > 0, updates=self.updates)

    def weigh(self, groups: base.StepGroups) -> base.Weighted:
        """A = (R - mean) / deviation over the samples; without a KL term, groups without signal are left out."""
        return self.weighted(sample_advantages(groups.rewards), base.scored_share(groups.rewards))

    def weighted(self, advantages: Tensor, shares: Tensor) -> base.Weighted:
        """Samples count their shares, (B, G), but those without advantage only where a KL term asks for them."""
        weights = shares if self.kl else shares * (advantages.nan_to_num(0.0) != 0)
        return base.Weighted(PerAnswer.of(weights), among_samples(advantages), PerAnswer.of(advantages))

    def log_ratio(self, tokens: base.TokenView) -> Tensor:
        """(N,), the log of each token's ratio r."""
        return tokens.log_ratio

    def loss(self, tokens: base.TokenView) -> base.TokenLoss:
        """-min(r A, clip(r) A) + kl * r * KL, a mean over each sample's tokens."""
        advantages = tokens.spread(tokens.signals)
        surrogate, clipped = clipped_surrogate(self.log_ratio(tokens), advantages, self.clip, self.clip_high)
        numbers = {"ratio/clipped": tokens.mean(clipped)}
        if self.kl == 0:
            return base.TokenLoss(tokens.mean(surrogate), numbers)
        ratio = self.log_ratio(tokens).exp()
        distance = tokens.mean(ratio * base.kl_estimate(tokens.logps, tokens.frozen))
        return base.TokenLoss(tokens.mean(surrogate) + self.kl * distance, numbers)

    def report(self, weighted: base.Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Size of the advantages, and groups that have none."""
        return base.group_numbers(weighted.advantages)


def sample_advantages(rewards: Tensor) -> Tensor:
    """(B, G) -> (B, G), (R - mean) / (deviation + 1e-4) within each group, the deviation with n - 1 as in TRL.

    NaN where the reward is missing, and in a whole group with fewer than two scored samples.
    """
    return centred(rewards) / (core.spread(rewards, rewards, freedom=1)[1] + _EPSILON)


def centred(rewards: Tensor) -> Tensor:
    """(B, G) -> (B, G), R - mean within each group: advantages that are not divided by the deviation. NaN as there."""
    scored = rewards.isfinite()
    lacking = ~scored | (scored.sum(dim=1, keepdim=True) < 2)
    return core.spread(rewards, rewards)[0].masked_fill(lacking, torch.nan)


def among_samples(advantages: Tensor) -> Advantages:
    """(B, G) of samples that are compared with each other alone: the reference has no advantage."""
    return core.Advantages(advantages, advantages.new_full((len(advantages),), torch.nan))


def clipped_surrogate(
    log_ratio: Tensor, advantages: Tensor, clip: float, clip_high: float | None = None
) -> tuple[Tensor, Tensor]:
    """-min(r A, clip(r, 1 - clip, 1 + clip_high) A) of tokens or of whole samples, and whether it was clipped.

    Args:
        log_ratio: log of r = pi / pi_old, of any shape, with gradient.
        advantages: constants of the same shape.
        clip, clip_high: how far below and above 1 a ratio counts; above as below where nothing else is said.
    """
    ratio = log_ratio.exp()
    free = ratio * advantages
    bounded = ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high)) * advantages
    return -torch.minimum(free, bounded), (bounded < free).to(ratio).detach()
