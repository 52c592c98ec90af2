"""GRPO (Shao et al., arXiv 2402.03300): group-relative advantages, a clipped ratio and a KL term.

This is eq. 3 of that paper, averaged over each sample's tokens and then over samples (TRL: `loss_type="grpo"`). The
reference answer matters only through the rewards, which are relative to it. The KL estimate is multiplied by the ratio
r, since otherwise its gradient would not be that of the KL divergence (DeepSeek-V3.2, arXiv 2512.02556; as in TRL).
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
"""Added to the standard deviation, as in TRL."""


@base.method
class GRPO(base.Method):
    """Group-relative advantages of the samples alone (arXiv 2402.03300)."""

    name: Literal["grpo"] = "grpo"
    """The method."""
    clip: PositiveFloat = 0.2
    """How far the probability ratio may fall below 1, and rise above it unless `clip_high` is set."""
    clip_high: PositiveFloat | None = None
    """How far the probability ratio may rise above 1; by default as far as `clip`."""
    kl: NonNegativeFloat = 0.04
    """Weight of the KL divergence to the initial policy."""
    updates: PositiveInt = 1
    """Optimiser steps per batch of samples."""

    @property
    def needs(self) -> base.Needs:
        """Old log-probabilities for several updates per batch, the frozen policy for the KL term."""
        return base.Needs(references=False, old=self.updates > 1, frozen=self.kl > 0, updates=self.updates)

    def weigh(self, groups: base.StepGroups) -> base.Weighted:
        """A = (R - mean) / std over the samples; each scored sample has weight 1/G."""
        return self.weighted(sample_advantages(groups.rewards), base.scored_share(groups.rewards))

    def weighted(self, advantages: Tensor, shares: Tensor) -> base.Weighted:
        """Weight samples by `shares`. Without a KL term, samples whose advantage is 0 get weight 0.

        Args:
            advantages: (B, G), NaN = missing.
            shares: (B, G), weights before samples without advantage are removed.

        Returns:
            Weights, with the advantages as signals for the loss.
        """
        weights = shares if self.kl else shares * (advantages.nan_to_num(0.0) != 0)
        return base.Weighted(PerAnswer.of(weights), without_reference(advantages), PerAnswer.of(advantages))

    def log_ratio(self, tokens: base.TokenView) -> Tensor:
        """Return the (N,) logs of the probability ratio r of each token."""
        return tokens.log_ratio

    def loss(self, tokens: base.TokenView) -> base.TokenLoss:
        """-min(r A, clip(r) A) + kl * r * KL, averaged over each sample's tokens."""
        advantages = tokens.per_token(tokens.signals)
        surrogate, clipped = clipped_surrogate(self.log_ratio(tokens), advantages, self.clip, self.clip_high)
        numbers = {"ratio/clipped": tokens.mean(clipped)}
        if self.kl == 0:
            return base.TokenLoss(tokens.mean(surrogate), numbers)
        ratio = self.log_ratio(tokens).exp()
        divergence = tokens.mean(ratio * base.kl_estimate(tokens.logps, tokens.frozen))
        return base.TokenLoss(tokens.mean(surrogate) + self.kl * divergence, numbers)

    def report(self, weighted: base.Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Report the size of the advantages, groups without signal and dropped groups."""
        return base.group_numbers(weighted.advantages)


def sample_advantages(rewards: Tensor) -> Tensor:
    """Return (R - mean) / (std + 1e-4) within each group of samples, std with n - 1 as in TRL.

    Args:
        rewards: (B, G), NaN = missing.

    Returns:
        (B, G); NaN where the reward is missing and throughout a group with fewer than two scored samples.
    """
    return centred(rewards) / (core.spread(rewards, rewards, freedom=1)[1] + _EPSILON)


def centred(rewards: Tensor) -> Tensor:
    """Return R - mean within each group of samples.

    Args:
        rewards: (B, G), NaN = missing.

    Returns:
        (B, G); NaN where the reward is missing and throughout a group with fewer than two scored samples.
    """
    scored = rewards.isfinite()
    missing = ~scored | (scored.sum(dim=1, keepdim=True) < 2)
    return core.spread(rewards, rewards)[0].masked_fill(missing, torch.nan)


def without_reference(advantages: Tensor) -> Advantages:
    """Return (B, G) sample advantages as `Advantages`, in which the reference has none (NaN)."""
    return core.Advantages(advantages, advantages.new_full((len(advantages),), torch.nan))


def clipped_surrogate(
    log_ratio: Tensor, advantages: Tensor, clip: float, clip_high: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return PPO's clipped surrogate, -min(r A, clip(r, 1 - clip, 1 + clip_high) A), of tokens or whole samples.

    Args:
        log_ratio: log of r = pi / pi_old, any shape, with gradient.
        advantages: constants of the same shape.
        clip: how far r may fall below 1.
        clip_high: how far r may rise above 1; `clip` if None.

    Returns:
        The loss, with gradient, and 1 where it was clipped, else 0; both in the shape of `log_ratio`.
    """
    ratio = log_ratio.exp()
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high)) * advantages
    return -torch.minimum(unclipped, clipped), (clipped < unclipped).to(ratio).detach()
