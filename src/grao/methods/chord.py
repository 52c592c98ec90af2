"""CHORD (Zhang et al., arXiv 2508.11408): (1 - mu) * GRPO + mu * SFT on the references.

CHORD-mu decays mu during training. CHORD-phi keeps mu constant and weights the tokens of a reference by
phi(p) = p (1 - p), which is largest where the policy is undecided. Not implemented: several updates per batch of
samples, so there are no probability ratios.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from grao.lazy import torch
from grao.methods.base import Method, StepGroups, TokenLoss, TokenView, Weighted, method, scored_share
from grao.methods.grpo import sample_advantages, without_reference
from grao.settings import PositiveInt, Share
from grao.types import PerAnswer, Role

if TYPE_CHECKING:
    from torch import Tensor


@method
class CHORDMu(Method):
    """GRPO plus SFT whose weight decays (arXiv 2508.11408)."""

    name: Literal["chord-mu"] = "chord-mu"
    """The method."""
    peak: Share = 0.9
    """Largest weight of SFT, reached after the warm-up."""
    valley: Share = 0.05
    """Final weight of SFT."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps over which the weight rises from 0 to `peak`."""
    decay: PositiveInt = 200
    """Steps over which the weight falls from `peak` to `valley`."""

    def mu(self, step: int) -> float:
        """Return the weight of SFT at a step, counted from 0: linear warm-up, then cosine decay."""
        return warmup_cosine(step, self.peak, self.valley, self.warmup, self.decay)

    def weigh(self, groups: StepGroups) -> Weighted:
        """Weight samples by (1 - mu) * A_i / G and references by mu * |y| / mean|y| (eq. 4 and 5)."""
        samples, references = mixed_weights(groups, self.mu(groups.step))
        advantages = sample_advantages(groups.rewards)
        weights = PerAnswer.of(samples * advantages.nan_to_num(0.0), references)
        return Weighted(weights, without_reference(advantages))

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Report groups without signal and the log-likelihood of the references."""
        return imitation_numbers(weighted, loglik)


@method
class CHORDPhi(Method):
    """GRPO plus SFT whose tokens are weighted by p (1 - p) (arXiv 2508.11408)."""

    name: Literal["chord-phi"] = "chord-phi"
    """The method."""
    mu: Share = 0.1
    """Weight of SFT."""

    def weigh(self, groups: StepGroups) -> Weighted:
        """Weight as CHORD-mu does, but leave the advantages to the loss: A_i for samples, 1 for references."""
        samples, references = mixed_weights(groups, self.mu)
        advantages = sample_advantages(groups.rewards)
        signals = PerAnswer.of(advantages, 1.0)
        weights = PerAnswer.of(samples * (signals.samples != 0), references)
        return Weighted(weights, without_reference(advantages), signals)

    def loss(self, tokens: TokenView) -> TokenLoss:
        """Policy gradient on samples; on references, cross-entropy weighted by phi as a constant (eq. 7)."""
        p = tokens.logps.detach().exp()
        phi = torch.where(tokens.has_role(Role.REFERENCE), p * (1 - p), torch.ones_like(p))
        mean_phi = tokens.mean(phi).masked_fill(tokens.roles != Role.REFERENCE, torch.nan)
        signals = tokens.per_token(tokens.signals)
        return TokenLoss(-tokens.mean(phi * signals * tokens.logps), {"reference/phi": mean_phi})

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Report groups without signal and the log-likelihood of the references."""
        return imitation_numbers(weighted, loglik)


def warmup_cosine(step: int, peak: float, valley: float, warmup: int, decay: int) -> float:
    """Return the value of a schedule with a linear warm-up and a cosine decay.

    Args:
        step: counted from 0.
        peak: value at the end of the warm-up.
        valley: value from the end of the decay on.
        warmup: steps of the warm-up, in which the value rises from 0.
        decay: steps of the decay.

    Returns:
        The value at `step`.
    """
    if step < warmup:
        return peak * step / warmup
    progress = min((step - warmup) / decay, 1.0)
    return valley + (peak - valley) * (1 + math.cos(math.pi * progress)) / 2


def mixed_weights(groups: StepGroups, mu: float) -> tuple[Tensor, Tensor]:
    """Return weights: (1 - mu) / (scored samples of the group), (B, G), and mu * |y| / mean|y| of references, (B,)."""
    references = mu * groups.lengths.reference.to(groups.rewards) / groups.mean_reference
    return (1 - mu) * scored_share(groups.rewards), references


def imitation_numbers(weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
    """Return two metrics, (B,) each: groups without signal and mean log-likelihood of the references."""
    return {"groups/no_signal": weighted.advantages.no_signal.double(), "reference/loglik": loglik.reference}
