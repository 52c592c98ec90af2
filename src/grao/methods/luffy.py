"""LUFFY (Yan et al., arXiv 2504.14945): the reference as an off-policy member of the group, its ratio shaped.

Advantages are taken over samples and reference together. A sample's tokens count by their ratio to the policy that
drew them; the reference was drawn by nobody, so its tokens count by f(p) = p / (p + gamma), which raises what is
unlikely more than p itself would. Every token of the group counts the same (1 / Z in eq. 7).

The authors' script (github.com/ElliottYan/LUFFY, `exp_scripts/train.sh`) does not divide by the deviation and takes no
mean over tokens (`grpo_use_std=False`, `loss_remove_token_mean=True`): `normalise: false`.
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
    """gamma of f(p) = p / (p + gamma), by which a reference's tokens count."""
    clip: PositiveFloat = 0.2
    """Half-width of the interval in which a probability ratio counts."""
    updates: PositiveInt = 1
    """Optimiser steps on one batch of samples."""
    normalise: bool = True
    """Divide advantages by the group's deviation, and sums over tokens by Z. If false, as in the authors' script,
    advantages are R - mean, and the sum over an answer's tokens is divided by `rollout.max_new_tokens`."""

    @property
    def needs(self) -> Needs:
        """Old log-probabilities for more than one update."""
        return Needs(old=self.updates > 1, updates=self.updates)

    def weigh(self, groups: StepGroups) -> Weighted:
        """Joint advantages; each answer's weight is its part of the group's tokens, or of the most it could have."""
        rewards, lengths = groups.rewards, groups.lengths
        advantages = core.ADVANTAGES["group" if self.normalise else "mean"](
            rewards, rewards.new_zeros(len(rewards)), "joint"
        )
        signals = PerAnswer.of(advantages.completions, advantages.reference)
        tokens = lengths.samples.sum(dim=1) + lengths.reference  # Z
        if not self.normalise:
            tokens = (rewards.isfinite().sum(dim=1) + 1) * groups.limit
        weights = PerAnswer.of(
            lengths.samples.to(rewards) * (signals.samples != 0) / tokens[:, None],
            lengths.reference.to(rewards) * (signals.reference != 0) / tokens,
        )
        return Weighted(weights, advantages, signals)

    def loss(self, tokens: TokenView) -> TokenLoss:
        """Clipped for samples, shaped for references; the mean over an answer's tokens."""
        advantages = tokens.spread(tokens.signals)
        surrogate, clipped = clipped_surrogate(tokens.log_ratio, advantages, self.clip)
        p = tokens.logps.exp()
        shaped = -p / (p + self.shaping) * advantages
        on_reference = tokens.only(Role.REFERENCE)
        return TokenLoss(
            tokens.mean(torch.where(on_reference, shaped, surrogate)),
            {"ratio/clipped": tokens.mean(clipped * ~on_reference)},
        )

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Advantage of the reference, and groups that have none."""
        return {
            "advantage/reference": weighted.advantages.reference,
            "groups/no_signal": weighted.advantages.no_signal.double(),
            "reference/loglik": loglik.reference,
        }
