"""Dr. GRPO (Liu et al., arXiv 2503.20783): GRPO without the two divisions that favour some groups and lengths.

No division by the group's deviation, for it weighs prompts by their difficulty, and none by a sample's length, for it
spares long wrong answers. The sum over a sample's tokens is divided by one constant, the most tokens that it may have
(TRL: `loss_type="dr_grpo"`, `scale_rewards="none"`).
"""

from __future__ import annotations

from typing import Literal

from grao.methods.base import StepGroups, Weighted, method, scored_share
from grao.methods.grpo import GRPO, centred
from grao.settings import NonNegativeFloat


@method
class DrGRPO(GRPO):
    """GRPO without deviation and length (arXiv 2503.20783)."""

    name: Literal["dr-grpo"] = "dr-grpo"  # type: ignore[assignment]
    """The method."""
    kl: NonNegativeFloat = 0.0
    """Weight of the KL divergence to the model before training; the paper has none."""

    def weigh(self, groups: StepGroups) -> Weighted:
        """A = R - mean over the samples; a sample counts |o| / `rollout.max_new_tokens`."""
        lengths = groups.lengths.samples.to(groups.rewards)
        return self.weighted(centred(groups.rewards), scored_share(groups.rewards) * lengths / groups.limit)
