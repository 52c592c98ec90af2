"""SRFT (Fu et al., arXiv 2506.19767): imitation and reinforcement in one loss, weighed by the policy's entropy.

Three terms (section 4 of the paper), each a mean over tokens here:

    reference, imitated    -0.5 * exp(-H) * log pi(y_t)       less where the policy is undecided
    reference, rewarded    -pi(y_t) * A_y                      as if drawn by a policy of probability 1, unclipped
    samples                -0.1 * exp(H) * log pi(o_t) if it won, + log pi(o_t) if it lost

A_y is taken over samples and reference together. H is the mean entropy over the answer's own tokens (the paper's is
over the batch), a constant for the gradient. A tie with the reference is neither won nor lost.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from grao.core import group_advantages
from grao.methods.method import Groups, Needs, Role, TokenLoss, Weighted, columns, scored_share
from grao.methods.tokens import TokenView


@dataclass(frozen=True)
class SRFT:
    """See the top of this file."""

    imitation: float = 0.5
    """Factor of the first term."""
    won: float = 0.1
    """Factor of samples that won."""

    needs = Needs()
    credit = None

    def weigh(self, groups: Groups) -> Weighted:
        """+1 and -1 for samples that won and lost, A_y for the reference."""
        rewards = groups.rewards
        advantages = group_advantages(rewards, rewards.new_zeros(len(rewards)))
        sign, shares = rewards.sign().nan_to_num(0.0), scored_share(rewards)
        return Weighted(columns(sign, advantages.reference), advantages, columns(shares * (sign != 0), 1.0))

    def loss(self, tokens: TokenView) -> TokenLoss:
        """The three terms."""
        entropy, likelihood = tokens.mean(tokens.entropies), tokens.mean(tokens.logps)
        on_reference = tokens.roles == Role.REFERENCE
        imitated = -self.imitation * (-entropy).exp() * likelihood
        rewarded = -tokens.mean(tokens.logps.exp()) * tokens.weights
        boost = torch.where(tokens.weights > 0, self.won * entropy.exp(), torch.ones_like(entropy))
        sampled = -boost * tokens.weights * likelihood
        return TokenLoss(torch.where(on_reference, imitated + rewarded, sampled))

    def report(self, weighted: Weighted, completion_loglik: Tensor, reference_loglik: Tensor) -> dict[str, Tensor]:
        """Advantage of the reference, and how likely it is."""
        return {"advantage/reference": weighted.advantages.reference, "reference/loglik": reference_loglik}
