"""LUFFY (Yan et al., arXiv 2504.14945): the reference as an off-policy member of the group, with a shaped ratio.

Advantages are computed over samples and reference together. The tokens of a sample use the usual clipped ratio. The
reference was not sampled from a policy, so its tokens use f(p) = p / (p + gamma) instead, which gives unlikely tokens a
larger gradient than p would. All tokens of a group have the same weight (1 / Z in eq. 7).

The authors' script (github.com/ElliottYan/LUFFY, `exp_scripts/train.sh`) neither divides by the standard deviation nor
averages over tokens (`grpo_use_std=False`, `loss_remove_token_mean=True`). With `normalise: false` both are left
out here too, and the sum over an answer's tokens is divided by `rollout.max_new_tokens`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from grao.lazy import core, torch
from grao.methods.base import Method, Needs, StepGroups, TokenLoss, TokenView, Weighted, method
from grao.methods.grpo import clipped_surrogate
from grao.settings import PositiveFloat, PositiveInt
from grao.types import PerAnswer, Role

if TYPE_CHECKING:
    from torch import Tensor


@method
class LUFFY(Method):
    """The reference as an off-policy member of the group (arXiv 2504.14945)."""

    name: Literal["luffy"] = "luffy"
    """The method."""
    shaping: PositiveFloat = 0.1
    """gamma of the shaping function f(p) = p / (p + gamma) on reference tokens."""
    clip: PositiveFloat = 0.2
    """How far the probability ratio may move from 1 before it is clipped."""
    updates: PositiveInt = 1
    """Optimiser steps per batch of samples."""
    normalise: bool = True
    """Divide advantages by the standard deviation and average over tokens; the authors' script does neither (false)."""

    @property
    def needs(self) -> Needs:
        """Old log-probabilities for several updates per batch."""
        return Needs(old=self.updates > 1, updates=self.updates)

    def weigh(self, groups: StepGroups) -> Weighted:
        """Weight answers by |x| / Z, or |x| / (maximum of Z) without `normalise`; 0 if the joint advantage is 0."""
        rewards, lengths = groups.rewards, groups.lengths
        advantages = core.ADVANTAGES["group" if self.normalise else "mean"](
            rewards, rewards.new_zeros(len(rewards)), "joint"
        )
        signals = PerAnswer.of(advantages.completions, advantages.reference)
        tokens = lengths.samples.sum(dim=1) + lengths.reference  # Z, (B,)
        if not self.normalise:
            tokens = (rewards.isfinite().sum(dim=1) + 1) * groups.limit
        weights = PerAnswer.of(
            lengths.samples.to(rewards) * (signals.samples != 0) / tokens[:, None],
            lengths.reference.to(rewards) * (signals.reference != 0) / tokens,
        )
        return Weighted(weights, advantages, signals)

    def loss(self, tokens: TokenView) -> TokenLoss:
        """Clipped surrogate for samples and -f(p) * A for references, averaged over each answer's tokens."""
        advantages = tokens.per_token(tokens.signals)
        surrogate, clipped = clipped_surrogate(tokens.log_ratio, advantages, self.clip)
        p = tokens.logps.exp()
        shaped = -p / (p + self.shaping) * advantages
        on_reference = tokens.has_role(Role.REFERENCE)
        return TokenLoss(
            tokens.mean(torch.where(on_reference, shaped, surrogate)),
            {"ratio/clipped": tokens.mean(clipped * ~on_reference)},
        )

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Report the advantage and log-likelihood of the reference, and groups without signal."""
        return {
            "advantage/reference": weighted.advantages.reference,
            "groups/no_signal": weighted.advantages.no_signal.double(),
            "reference/loglik": loglik.reference,
        }
