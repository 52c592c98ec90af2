"""SRFT (Fu et al., arXiv 2506.19767): imitation and reinforcement in one loss, weighed by the policy's entropy.

Three terms (section 4 of the paper), each a mean over tokens here:

    reference, imitated    -0.5 * exp(-H) * log pi(y_t)       less where the policy is undecided
    reference, rewarded    -pi(y_t) * A_y                      as if drawn by a policy of probability 1, unclipped
    samples                -0.1 * exp(H) * log pi(o_t) if it won, + log pi(o_t) if it lost

A_y is taken over samples and reference together. H is the mean entropy over the answer's own tokens (the paper's is
over the batch), a constant for the gradient. A tie with the reference is neither won nor lost.
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
    """Imitation and reinforcement weighed by entropy (arXiv 2506.19767)."""

    name: Literal["srft"] = "srft"
    """The method."""
    imitation: NonNegativeFloat = 0.5
    """Factor of the imitation of the reference."""
    won: NonNegativeFloat = 0.1
    """Factor of samples that beat the reference."""

    def weigh(self, groups: StepGroups) -> Weighted:
        """The loss is told +1 and -1 for samples that won and lost, A_y for the reference."""
        rewards = groups.rewards
        advantages = core.group_advantages(rewards, rewards.new_zeros(len(rewards)))
        sign = rewards.sign().nan_to_num(0.0)
        weights = PerAnswer.of(scored_share(rewards) * (sign != 0), 1.0)
        return Weighted(weights, advantages, PerAnswer.of(sign, advantages.reference))

    def loss(self, tokens: TokenView) -> TokenLoss:
        """The three terms."""
        entropy, likelihood = tokens.mean(tokens.entropies), tokens.mean(tokens.logps)
        imitated = -self.imitation * (-entropy).exp() * likelihood
        rewarded = -tokens.mean(tokens.logps.exp()) * tokens.signals
        boost = torch.where(tokens.signals > 0, self.won * entropy.exp(), torch.ones_like(entropy))
        sampled = -boost * tokens.signals * likelihood
        return TokenLoss(torch.where(tokens.roles == Role.REFERENCE, imitated + rewarded, sampled))

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Advantage of the reference, and how likely it is."""
        return {"advantage/reference": weighted.advantages.reference, "reference/loglik": loglik.reference}
