"""DAPO (Yu et al., arXiv 2503.14476): GRPO with a higher upper bound, every token alike, and full steps.

Ratios may rise further than they may fall (eq. 8, "clip-higher"). The loss is a mean over all tokens of the step and
not over samples (TRL: `loss_type="dapo"`). A group whose samples all have the same reward teaches nothing: it is drawn
anew with another prompt, until the step is full or `resample` times ("dynamic sampling", section 3.2). The further
prompts are shuffled by seed and step; the authors go on in the order of their data, in batches of three times a
step's size. Left out: the shaping of rewards of overlong answers (section 3.4).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from grao.methods.base import Needs, StepGroups, Weighted, method
from grao.methods.grpo import GRPO, sample_advantages
from grao.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat


@method
class DAPO(GRPO):
    """GRPO with clip-higher, a mean over tokens and resampled silent groups (arXiv 2503.14476)."""

    name: Literal["dapo"] = "dapo"  # type: ignore[assignment]
    """The method."""
    clip_high: PositiveFloat | None = 0.28
    """How far above 1 a probability ratio counts."""
    kl: NonNegativeFloat = 0.0
    """Weight of the KL divergence to the model before training; the paper has none."""
    resample: NonNegativeInt = 9
    """How often groups without signal are drawn anew with other prompts; 9 as in the authors' 10 batches a step."""

    @property
    def needs(self) -> Needs:
        """As GRPO, and further prompts."""
        return replace(super().needs, resample=self.resample)

    def weigh(self, groups: StepGroups) -> Weighted:
        """A = (R - mean) / deviation over the samples; with A not 0 a sample counts |o| / (tokens of a mean group)."""
        advantages = sample_advantages(groups.rewards)
        shares = groups.lengths.samples.to(groups.rewards) / groups.mean_samples
        return self.weighted(advantages, shares * (advantages.nan_to_num(0.0) != 0))
