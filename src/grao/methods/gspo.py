"""GSPO (Zheng et al., arXiv 2507.18071): GRPO with one probability ratio per sample.

    s_i = (pi(o_i) / pi_old(o_i))^(1 / |o_i|)       geometric mean of the tokens' ratios (eq. 7)

s_i replaces the ratio of each token in GRPO's loss (eq. 5; TRL: `importance_sampling_level="sequence"`) and is clipped
to a much narrower range. Its gradient differs from GRPO's only from the second update on a batch, so `updates` is 4 by
default; the authors split each batch into four. Not implemented: GSPO-token (section 4.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from grao.methods.base import TokenView, method
from grao.methods.grpo import GRPO
from grao.settings import NonNegativeFloat, PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from torch import Tensor


@method
class GSPO(GRPO):
    """GRPO with one probability ratio per sample (arXiv 2507.18071)."""

    name: Literal["gspo"] = "gspo"  # type: ignore[assignment]
    """The method."""
    clip: PositiveFloat = 3e-4
    """How far the ratio of a sample may fall below 1."""
    clip_high: PositiveFloat | None = 4e-4
    """How far the ratio of a sample may rise above 1."""
    kl: NonNegativeFloat = 0.0
    """Weight of the KL divergence to the initial policy; the paper has no such term."""
    updates: PositiveInt = 4
    """Optimiser steps per batch of samples; with 1 the method equals GRPO."""

    def log_ratio(self, tokens: TokenView) -> Tensor:
        """Return (N,) values: log s_i of the sample that each token belongs to."""
        return tokens.per_token(tokens.mean(tokens.log_ratio))
