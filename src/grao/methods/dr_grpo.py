"""Dr. GRPO (Liu et al., arXiv 2503.20783): GRPO without the divisions by standard deviation and by length.

Dividing by the group's standard deviation biases the update towards very easy and very hard prompts. Dividing by the
length penalises long wrong answers too little. Dr. GRPO divides the sum over a sample's tokens by a constant instead,
the maximum length of a sample (TRL: `loss_type="dr_grpo"`, `scale_rewards="none"`).
"""

from __future__ import annotations

from typing import Literal

from grao.methods.base import StepGroups, Weighted, method, scored_share
from grao.methods.grpo import GRPO, centred
from grao.settings import NonNegativeFloat


@method
class DrGRPO(GRPO):
    """GRPO without division by standard deviation and length (arXiv 2503.20783)."""

    name: Literal["dr-grpo"] = "dr-grpo"  # type: ignore[assignment]
    """The method."""
    kl: NonNegativeFloat = 0.0
    """Weight of the KL divergence to the initial policy; the paper has no such term."""

    def weigh(self, groups: StepGroups) -> Weighted:
        """A = R - mean over the samples; a sample has weight |o| / (G * `rollout.max_new_tokens`)."""
        lengths = groups.lengths.samples.to(groups.rewards)
        return self.weighted(centred(groups.rewards), scored_share(groups.rewards) * lengths / groups.limit)
