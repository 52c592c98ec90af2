"""DAPO (Yu et al., arXiv 2503.14476): GRPO with asymmetric clipping, a token-level loss and dynamic sampling.

- Clip-higher (eq. 8): the probability ratio may rise further above 1 than it may fall below.
- Token-level loss: the mean is over all tokens of the step instead of over samples (TRL: `loss_type="dapo"`).
- Dynamic sampling (section 3.2): a group whose samples all have the same reward carries no signal. It is replaced by
  the group of another prompt until the step is full, for up to `resample` rounds. Here the additional prompts are
  shuffled by seed and step; the authors continue in data order, in batches of three times the step size.

Not implemented: reward shaping for overlong answers (section 3.4).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from grao.methods.base import Needs, StepGroups, Weighted, method
from grao.methods.grpo import GRPO, sample_advantages
from grao.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat


@method
class DAPO(GRPO):
    """GRPO with clip-higher, a token-level loss and dynamic sampling (arXiv 2503.14476)."""

    name: Literal["dapo"] = "dapo"  # type: ignore[assignment]
    """The method."""
    clip_high: PositiveFloat | None = 0.28
    """How far the probability ratio may rise above 1 before it is clipped."""
    kl: NonNegativeFloat = 0.0
    """Weight of the KL divergence to the initial policy; the paper has no such term."""
    resample: NonNegativeInt = 9
    """Rounds in which groups without signal are replaced; 9 corresponds to the authors' 10 batches per step."""

    @property
    def needs(self) -> Needs:
        """Those of GRPO, plus additional prompts."""
        return replace(super().needs, resample=self.resample)

    def weigh(self, groups: StepGroups) -> Weighted:
        """A = (R - mean) / std over the samples; a sample with A != 0 has weight |o| / (mean tokens per group)."""
        advantages = sample_advantages(groups.rewards)
        shares = groups.lengths.samples.to(groups.rewards) / groups.mean_samples
        return self.weighted(advantages, shares * (advantages.nan_to_num(0.0) != 0))
