"""GFT, group fine-tuning (Gan et al., arXiv 2604.14258): expert and own answers in one group, a coefficient per token.

    A    = (R - mean) / (deviation + 1e-6)      over samples and reference together, deviation with n - 1
    loss = -sg(c_t) * A * log pi(x_t)           c = 1 where pi(x_t) > threshold, else pi(x_t)

The first is the paper's group advantage learning, the second its dynamic coefficient rectification: what is unlikely
counts less, so that its gradient, which grows as 1 / pi, stays bounded. The mean is over all tokens of the step. Form
and constants are those of the authors' code (github.com/ZJU-OmniAI/GFT, `compute_gft_loss`). Left out: answers of a
teacher in the group; and, as there, a ratio to the policy that sampled, hence more than one update on a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from grao.lazy import core, torch
from grao.methods.base import Method, StepGroups, TokenLoss, TokenView, Weighted, method
from grao.settings import Share
from grao.types import PerAnswer

if TYPE_CHECKING:
    from torch import Tensor

_EPSILON = 1e-6
"""Added to the deviation, as in the authors' code."""


@method
class GFT(Method):
    """Reference and samples in one group, unlikely tokens damped (arXiv 2604.14258)."""

    name: Literal["gft"] = "gft"
    """The method."""
    threshold: Share = 0.1
    """Probability above which a token counts in full, tau; 0.1 in the authors' README, 0.5 in most of their scripts."""

    def weigh(self, groups: StepGroups) -> Weighted:
        """Joint advantages; an answer's weight is its part of the step's tokens."""
        advantages = joint_advantages(groups.rewards)
        signals = PerAnswer.of(advantages.completions, advantages.reference)
        tokens = groups.mean_samples + groups.mean_reference
        weights = PerAnswer.of(
            groups.lengths.samples.to(groups.rewards) * (signals.samples != 0) / tokens,
            groups.lengths.reference.to(groups.rewards) * (signals.reference != 0) / tokens,
        )
        return Weighted(weights, advantages, signals)

    def loss(self, tokens: TokenView) -> TokenLoss:
        """Rectified log-likelihood times advantage, a mean over an answer's tokens."""
        p = tokens.logps.detach().exp()
        coefficient = torch.where(p > self.threshold, 1.0, p)
        rectified = tokens.mean((p <= self.threshold).to(p))
        return TokenLoss(-tokens.signals * tokens.mean(coefficient * tokens.logps), {"gft/rectified": rectified})

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Advantage of the reference, how likely it is, and groups without signal."""
        return {
            "advantage/reference": weighted.advantages.reference,
            "groups/no_signal": weighted.advantages.no_signal.double(),
            "reference/loglik": loglik.reference,
        }


def joint_advantages(rewards: Tensor) -> core.Advantages:
    """(B, G) rewards of samples, the reference's being 0 -> advantages over both, the deviation with n - 1.

    NaN where the reward is missing, and in a whole group without a scored sample.
    """
    everyone = torch.cat([rewards, torch.zeros_like(rewards[:, :1])], dim=1)
    everyone = everyone.masked_fill(~rewards.isfinite().any(dim=1, keepdim=True), torch.nan)
    distance, deviation = core.spread(everyone, everyone, freedom=1)
    advantages = (distance / (deviation + _EPSILON)).masked_fill(~everyone.isfinite(), torch.nan)
    return core.Advantages(advantages[:, :-1], advantages[:, -1])
