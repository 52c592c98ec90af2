"""CHORD (Zhang et al., arXiv 2508.11408): (1 - mu) * GRPO + mu * SFT on the references.

CHORD-mu lets mu fall from step to step. CHORD-phi keeps it and weighs the tokens of a reference by phi(p) = p (1 - p),
most where the policy is undecided. Left out: more than one update on a batch of samples, hence ratios.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from grao.lazy import torch
from grao.methods.base import Method, StepGroups, TokenLoss, TokenView, Weighted, method, scored_share
from grao.methods.grpo import among_samples, sample_advantages
from grao.settings import PositiveInt, Share
from grao.types import PerAnswer, Role

if TYPE_CHECKING:
    from torch import Tensor


@method
class CHORDMu(Method):
    """GRPO and SFT with a falling weight of SFT (arXiv 2508.11408)."""

    name: Literal["chord-mu"] = "chord-mu"
    """The method."""
    peak: Share = 0.9
    """Greatest weight of SFT."""
    valley: Share = 0.05
    """Its weight in the end."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps in which it rises."""
    decay: PositiveInt = 200
    """Steps in which it falls."""

    def mu(self, step: int) -> float:
        """The weight of SFT at a step (from 0): up in a line, down along a cosine."""
        return scheduled(step, self.peak, self.valley, self.warmup, self.decay)

    def weigh(self, groups: StepGroups) -> Weighted:
        """A weighted likelihood: (1 - mu) * A_i / G for samples, mu * |y| / mean|y| for references (eq. 4 and 5)."""
        samples, references = mixed(groups, self.mu(groups.step))
        advantages = sample_advantages(groups.rewards)
        weights = PerAnswer.of(samples * advantages.nan_to_num(0.0), references)
        return Weighted(weights, among_samples(advantages))

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """How likely the references are, and groups without signal."""
        return imitation_numbers(weighted, loglik)


@method
class CHORDPhi(Method):
    """GRPO and SFT, a reference's tokens weighed by p (1 - p) (arXiv 2508.11408)."""

    name: Literal["chord-phi"] = "chord-phi"
    """The method."""
    mu: Share = 0.1
    """Weight of SFT."""

    def weigh(self, groups: StepGroups) -> Weighted:
        """The loss is told the advantages of samples, and 1 for references."""
        samples, references = mixed(groups, self.mu)
        advantages = sample_advantages(groups.rewards)
        signals = PerAnswer.of(advantages, 1.0)
        weights = PerAnswer.of(samples * (signals.samples != 0), references)
        return Weighted(weights, among_samples(advantages), signals)

    def loss(self, tokens: TokenView) -> TokenLoss:
        """The plain policy gradient on samples; on references phi-weighted cross-entropy, phi a constant (eq. 7)."""
        p = tokens.logps.detach().exp()
        phi = torch.where(tokens.only(Role.REFERENCE), p * (1 - p), torch.ones_like(p))
        mean_phi = tokens.mean(phi).masked_fill(tokens.roles != Role.REFERENCE, torch.nan)
        return TokenLoss(-tokens.mean(phi * tokens.spread(tokens.signals) * tokens.logps), {"reference/phi": mean_phi})

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """How likely the references are, and groups without signal."""
        return imitation_numbers(weighted, loglik)


def scheduled(step: int, peak: float, valley: float, warmup: int, decay: int) -> float:
    """At a step (from 0): in a line up to `peak`, along a cosine down to `valley`; in `warmup` and `decay` steps."""
    if step < warmup:
        return peak * step / warmup
    passed = min((step - warmup) / decay, 1.0)
    return valley + (peak - valley) * (1 + math.cos(math.pi * passed)) / 2


def mixed(groups: StepGroups, mu: float) -> tuple[Tensor, Tensor]:
    """(1 - mu) / G of each scored sample, (B, G), and mu * |y| / mean|y| of each reference, (B,)."""
    references = mu * groups.lengths.reference.to(groups.rewards) / groups.mean_reference
    return (1 - mu) * scored_share(groups.rewards), references


def imitation_numbers(weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
    """How likely the references are, and groups without signal, (B,) each."""
    return {"groups/no_signal": weighted.advantages.no_signal.double(), "reference/loglik": loglik.reference}
