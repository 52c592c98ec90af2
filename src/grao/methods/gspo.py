"""GSPO (Zheng et al., arXiv 2507.18071): GRPO with one ratio for a whole sample.

    s_i = (pi(o_i) / pi_old(o_i))^(1 / |o_i|)       eq. 7: the geometric mean of its tokens' ratios

takes the place of each token's ratio in GRPO's loss (eq. 5; TRL: `importance_sampling_level="sequence"`), and is
clipped in a far smaller range. The gradient differs from GRPO's only from the second update on a batch of samples on,
hence `updates`; the authors split a batch in four. Left out: GSPO-token (section 4.3).
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
    """GRPO with one ratio for a whole sample (arXiv 2507.18071)."""

    name: Literal["gspo"] = "gspo"  # type: ignore[assignment]
    """The method."""
    clip: PositiveFloat = 3e-4
    """How far below 1 the ratio of a sample counts."""
    clip_high: PositiveFloat | None = 4e-4
    """How far above 1 it counts."""
    kl: NonNegativeFloat = 0.0
    """Weight of the KL divergence to the model before training; the paper has none."""
    updates: PositiveInt = 4
    """Optimiser steps on one batch of samples; with one the method is GRPO."""

    def log_ratio(self, tokens: TokenView) -> Tensor:
        """(N,), log s of each token's sample."""
        return tokens.spread(tokens.mean(tokens.log_ratio))
