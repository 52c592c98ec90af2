"""SRFT (Fu et al., arXiv 2506.19767): imitation and reinforcement in one loss, weighted by the policy's entropy.

The loss has three terms (section 4 of the paper), each averaged over tokens here:

    imitation of the reference     -0.5 * exp(-H) * log pi(y_t)        weaker where the policy is undecided
    reward of the reference        -pi(y_t) * A_y                      unclipped ratio pi / pi_old with pi_old = 1
    samples                        -0.1 * exp(H) * log pi(o_t) for wins, + log pi(o_t) for losses

A_y is computed over samples and reference together. H is the mean entropy over the answer's tokens (in the paper, over
the batch) and constant for the gradient. Samples that tie with the reference have no weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from grao.lazy import core, torch
from grao.methods.base import Method, StepGroups, TokenLoss, TokenView, Weighted, method, scored_share
from grao.settings import NonNegativeFloat
from grao.types import PerAnswer, Role

if TYPE_CHECKING:
    from torch import Tensor


@method
class SRFT(Method):
    """Imitation and reinforcement weighted by entropy (arXiv 2506.19767)."""

    name: Literal["srft"] = "srft"
    """The method."""
    imitation: NonNegativeFloat = 0.5
    """Factor of the imitation term."""
    won: NonNegativeFloat = 0.1
    """Factor of the loss of samples that beat the reference."""

    def weigh(self, groups: StepGroups) -> Weighted:
        """Weight samples that do not tie by 1/G, references by 1. Signals: 1 (win), -1 (loss), A_y (reference)."""
        rewards = groups.rewards
        advantages = core.group_advantages(rewards, rewards.new_zeros(len(rewards)))
        sign = rewards.sign().nan_to_num(0.0)
        weights = PerAnswer.of(scored_share(rewards) * (sign != 0), 1.0)
        return Weighted(weights, advantages, PerAnswer.of(sign, advantages.reference))

    def loss(self, tokens: TokenView) -> TokenLoss:
        """Return for each answer the sum of the terms that apply to it."""
        entropy, likelihood = tokens.mean(tokens.entropies), tokens.mean(tokens.logps)
        imitated = -self.imitation * (-entropy).exp() * likelihood
        rewarded = -tokens.mean(tokens.logps.exp()) * tokens.signals
        boost = torch.where(tokens.signals > 0, self.won * entropy.exp(), torch.ones_like(entropy))
        sampled = -boost * tokens.signals * likelihood
        return TokenLoss(torch.where(tokens.roles == Role.REFERENCE, imitated + rewarded, sampled))

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Report the advantage and log-likelihood of the reference."""
        return {"advantage/reference": weighted.advantages.reference, "reference/loglik": loglik.reference}
