"""GFT, group fine-tuning (Gan et al., arXiv 2604.14258): samples and reference in one group, unlikely tokens damped.

    A    = (R - mean) / (std + 1e-6)            over samples and reference together, std with n - 1
    loss = -sg(c_t) * A * log pi(x_t)           c_t = 1 if pi(x_t) > threshold, else pi(x_t)

The paper calls these group advantage learning and dynamic coefficient rectification. The coefficient c_t bounds the
gradient of unlikely tokens, which otherwise grows as 1 / pi. The mean is over all tokens of the step. Formulas and
constants follow the authors' code (github.com/ZJU-OmniAI/GFT, `compute_gft_loss`). Not implemented: teacher answers in
the group. As in their code there is no ratio to the sampling policy, so each batch gets a single update.
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
"""Added to the standard deviation, as in the authors' code."""


@method
class GFT(Method):
    """Samples and reference in one group, unlikely tokens damped (arXiv 2604.14258)."""

    name: Literal["gft"] = "gft"
    """The method."""
    threshold: Share = 0.1
    """tau: tokens above this probability count in full. 0.1 in the authors' README, 0.5 in most of their scripts."""

    def weigh(self, groups: StepGroups) -> Weighted:
        """Weight answers by |x| / (mean tokens of a group, reference included); 0 if the advantage is 0."""
        advantages = joint_advantages(groups.rewards)
        signals = PerAnswer.of(advantages.completions, advantages.reference)
        tokens = groups.mean_samples + groups.mean_reference
        weights = PerAnswer.of(
            groups.lengths.samples.to(groups.rewards) * (signals.samples != 0) / tokens,
            groups.lengths.reference.to(groups.rewards) * (signals.reference != 0) / tokens,
        )
        return Weighted(weights, advantages, signals)

    def loss(self, tokens: TokenView) -> TokenLoss:
        """Negative advantage times the rectified log-likelihood, averaged over each answer's tokens."""
        p = tokens.logps.detach().exp()
        coefficient = torch.where(p > self.threshold, 1.0, p)
        rectified = tokens.mean((p <= self.threshold).to(p))
        return TokenLoss(-tokens.signals * tokens.mean(coefficient * tokens.logps), {"gft/rectified": rectified})

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Report the advantage and log-likelihood of the reference, and groups without signal."""
        return {
            "advantage/reference": weighted.advantages.reference,
            "groups/no_signal": weighted.advantages.no_signal.double(),
            "reference/loglik": loglik.reference,
        }


def joint_advantages(rewards: Tensor) -> core.Advantages:
    """Return advantages over samples and reference together, with the sample standard deviation (n - 1).

    Args:
        rewards: (B, G), relative to the reference, whose reward is 0; NaN = missing.

    Returns:
        Advantages; NaN where the reward is missing and throughout a group without a scored sample.
    """
    members = torch.cat([rewards, torch.zeros_like(rewards[:, :1])], dim=1)
    members = members.masked_fill(~rewards.isfinite().any(dim=1, keepdim=True), torch.nan)
    distance, deviation = core.spread(members, members, freedom=1)
    advantages = (distance / (deviation + _EPSILON)).masked_fill(~members.isfinite(), torch.nan)
    return core.Advantages(advantages[:, :-1], advantages[:, -1])
