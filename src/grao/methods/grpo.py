"""GRPO (Shao et al., arXiv 2402.03300): samples against each other, with a clipped ratio and a pull to the start.

The reference answer takes part only through the rewards, which are relative to it. The KL estimate is multiplied by the
ratio r, without which its gradient is not that of the KL divergence (DeepSeek-V3.2, arXiv 2512.02556; as in TRL).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from grao.core import Advantages
from grao.methods.method import Groups, Needs, TokenLoss, Weighted, columns, scored_share
from grao.methods.tokens import TokenView, kl_estimate

_EPSILON = 1e-4
"""Added to the deviation, as in TRL."""


@dataclass(frozen=True)
class GRPO:
    """Eq. 3 of the paper; means over a sample's tokens, then over samples (TRL: `loss_type="grpo"`)."""

    clip: float = 0.2
    kl: float = 0.04
    """Coefficient of the KL divergence to the model before training (beta in the paper)."""
    updates: int = 1
    """Optimiser steps on one batch of samples (mu in the paper)."""

    credit = None

    @property
    def needs(self) -> Needs:
        """Old log-probabilities for more than one update, the frozen policy for the KL term."""
        return Needs(old=self.updates > 1, frozen=self.kl > 0, updates=self.updates)

    def weigh(self, groups: Groups) -> Weighted:
        """A = (R - mean) / deviation over the samples; without a KL term, groups without signal are left out."""
        advantages = sample_advantages(groups.rewards)
        shares = scored_share(groups.rewards)
        counted = shares if self.kl > 0 else shares * (advantages.nan_to_num(0.0) != 0)
        reference = advantages.new_full((len(advantages),), torch.nan)
        return Weighted(columns(advantages), Advantages(advantages, reference), columns(counted))

    def loss(self, tokens: TokenView) -> TokenLoss:
        """-min(r A, clip(r) A) + kl * r * KL, a mean over each sample's tokens."""
        surrogate, clipped = clipped_surrogate(tokens, tokens.spread(tokens.weights), self.clip)
        numbers = {"ratio/clipped": tokens.mean(clipped)}
        if self.kl == 0:
            return TokenLoss(tokens.mean(surrogate), numbers)
        ratio = (tokens.logps - tokens.old).exp()
        distance = tokens.mean(ratio * kl_estimate(tokens.logps, tokens.frozen))
        return TokenLoss(tokens.mean(surrogate) + self.kl * distance, numbers)

    def report(self, weighted: Weighted, completion_loglik: Tensor, reference_loglik: Tensor) -> dict[str, Tensor]:
        """Size of the advantages, and groups that have none."""
        advantages = weighted.advantages
        return {
            "advantage/abs": advantages.completions.abs().nanmean(dim=1),
            "groups/no_signal": advantages.no_signal.double(),
            "groups/dropped": advantages.dropped.double(),
        }


def sample_advantages(rewards: Tensor) -> Tensor:
    """(B, G) -> (B, G), (R - mean) / (deviation + 1e-4) within each group, the deviation with n - 1 as in TRL.

    NaN where the reward is missing, and in a whole group with fewer than two scored samples.
    """
    scored = rewards.isfinite()
    count = scored.sum(dim=1, keepdim=True)
    centred = rewards - rewards.nanmean(dim=1, keepdim=True)
    variance = centred.square().nansum(dim=1, keepdim=True) / (count - 1).clamp(min=1)
    return (centred / (variance.sqrt() + _EPSILON)).masked_fill(~scored | (count < 2), torch.nan)


def clipped_surrogate(tokens: TokenView, advantages: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """-min(r A, clip(r, 1 - clip, 1 + clip) A) of every token, and whether it was clipped; (N,) each.

    Args:
        tokens: with r = pi / pi_old.
        advantages: (N,), constants.
        clip: half-width of the interval in which a ratio counts.
    """
    ratio = (tokens.logps - tokens.old).exp()
    free, bounded = ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages
    return -torch.minimum(free, bounded), (bounded < free).to(ratio).detach()
