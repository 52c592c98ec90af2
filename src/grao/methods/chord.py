"""CHORD (Zhang et al., arXiv 2508.11408): (1 - mu) * GRPO + mu * SFT on the references.

CHORD-mu lets mu fall from step to step. CHORD-phi keeps it and weighs the tokens of a reference by phi(p) = p (1 - p),
most where the policy is undecided. Left out: more than one update on a batch of samples, hence ratios.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from grao.core import Advantages
from grao.methods.grpo import sample_advantages
from grao.methods.method import Groups, Needs, Role, TokenLoss, Weighted, columns, scored_share
from grao.methods.tokens import TokenView


@dataclass(frozen=True)
class CHORDMu:
    """A weighted likelihood: (1 - mu) * A_i / G for samples, mu * |y| / mean|y| for references (eq. 4 and 5)."""

    peak: float = 0.9
    valley: float = 0.05
    warmup: int = 0
    """Steps in which mu rises to its peak."""
    decay: int = 200
    """Steps in which it falls to its valley, along a cosine."""

    needs = Needs()
    loss = credit = None

    def mu(self, step: int) -> float:
        """At a step (from 0)."""
        if step < self.warmup:
            return self.peak * step / self.warmup
        passed = min((step - self.warmup) / self.decay, 1.0)
        return self.valley + (self.peak - self.valley) * (1 + math.cos(math.pi * passed)) / 2

    def weigh(self, groups: Groups) -> Weighted:
        """Samples against each other, references by length."""
        samples, references = mixed(groups, self.mu(groups.step))
        advantages = sample_advantages(groups.rewards)
        return Weighted(columns(samples * advantages.nan_to_num(0.0), references), group(advantages))

    def report(self, weighted: Weighted, completion_loglik: Tensor, reference_loglik: Tensor) -> dict[str, Tensor]:
        """How likely the references are, and groups without signal."""
        return {
            "groups/no_signal": weighted.advantages.no_signal.double(),
            "reference/loglik": reference_loglik,
        }


@dataclass(frozen=True)
class CHORDPhi:
    """A constant mu; a reference's tokens by phi(p) = p (1 - p), a constant for the gradient (eq. 7)."""

    mu: float = 0.1

    needs = Needs()
    credit = None

    def weigh(self, groups: Groups) -> Weighted:
        """Advantages for samples, 1 for references."""
        samples, references = mixed(groups, self.mu)
        advantages = sample_advantages(groups.rewards)
        weights = columns(advantages, torch.ones_like(references))
        return Weighted(weights, group(advantages), columns(samples, references) * (weights != 0))

    def loss(self, tokens: TokenView) -> TokenLoss:
        """The plain policy gradient on samples, phi-weighted cross-entropy on references."""
        p = tokens.logps.detach().exp()
        phi = torch.where(tokens.only(Role.REFERENCE), p * (1 - p), torch.ones_like(p))
        on_reference = tokens.roles == Role.REFERENCE
        mean_phi = tokens.mean(phi).masked_fill(~on_reference, torch.nan)
        return TokenLoss(-tokens.mean(phi * tokens.spread(tokens.weights) * tokens.logps), {"reference/phi": mean_phi})

    report = CHORDMu.report


def mixed(groups: Groups, mu: float) -> tuple[Tensor, Tensor]:
    """(1 - mu) / G of each scored sample, (B, G), and mu * |y| / mean|y| of each reference, (B,)."""
    references = mu * groups.lengths[:, -2].to(groups.rewards) / groups.mean_reference
    return (1 - mu) * scored_share(groups.rewards), references


def group(advantages: Tensor) -> Advantages:
    """Of samples that are compared with each other alone, (B, G)."""
    return Advantages(advantages, advantages.new_full((len(advantages),), torch.nan))
