"""LUFFY (Yan et al., arXiv 2504.14945): the reference as an off-policy member of the group, its ratio shaped.

Advantages are taken over samples and reference together. A sample's tokens count by their ratio to the policy that
drew them; the reference was drawn by nobody, so its tokens count by f(p) = p / (p + gamma), which raises what is
unlikely more than p itself would.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from grao.core import group_advantages
from grao.methods.grpo import clipped_surrogate
from grao.methods.method import Groups, Needs, Role, TokenLoss, Weighted, columns
from grao.methods.tokens import TokenView


@dataclass(frozen=True)
class LUFFY:
    """Eq. 7 of the paper; every token of the group counts the same (1 / Z)."""

    shaping: float = 0.1
    """gamma."""
    clip: float = 0.2
    updates: int = 1
    """Optimiser steps on one batch of samples."""

    credit = None

    @property
    def needs(self) -> Needs:
        """Old log-probabilities for more than one update."""
        return Needs(old=self.updates > 1, updates=self.updates)

    def weigh(self, groups: Groups) -> Weighted:
        """Joint advantages; each answer's share is its part of the group's tokens."""
        rewards = groups.rewards
        advantages = group_advantages(rewards, rewards.new_zeros(len(rewards)))
        weights = columns(advantages.completions, advantages.reference)
        counted = groups.lengths.to(weights) * (weights != 0)
        everything = groups.lengths[:, :-1].sum(dim=1, keepdim=True)  # Z
        return Weighted(weights, advantages, counted / everything)

    def loss(self, tokens: TokenView) -> TokenLoss:
        """Clipped for samples, shaped for references; the mean over an answer's tokens."""
        advantages = tokens.spread(tokens.weights)
        surrogate, clipped = clipped_surrogate(tokens, advantages, self.clip)
        p = tokens.logps.exp()
        shaped = -p / (p + self.shaping) * advantages
        on_reference = tokens.only(Role.REFERENCE)
        return TokenLoss(
            tokens.mean(torch.where(on_reference, shaped, surrogate)),
            {"ratio/clipped": tokens.mean(clipped * ~on_reference)},
        )

    def report(self, weighted: Weighted, completion_loglik: Tensor, reference_loglik: Tensor) -> dict[str, Tensor]:
        """Advantage of the reference, and groups that have none."""
        return {
            "advantage/reference": weighted.advantages.reference,
            "groups/no_signal": weighted.advantages.no_signal.double(),
            "reference/loglik": reference_loglik,
        }
