"""Imitation first, as long as it pays, then exploration: the order that eq. 3 promises, handed over by measurement.

    SFT     as long as wins on prompts that are kept away from training rise
    GRPO    from the best of these models, for the work that is left

Not in the paper.
"""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from grao.methods.base import Method, Needs, method
from grao.methods.grpo import GRPO
from grao.methods.sft import SFT
from grao.methods.stage import Peak, Stage, Until


@method
class Auto(Method):
    """SFT as long as it pays on prompts kept away, then GRPO."""

    name: Literal["auto"] = "auto"
    """The method."""
    imitation: Peak = field(default_factory=lambda: Peak(samples=8, enough=0.4))
    """When imitation has ended."""

    needs = Needs(frozen=True)

    def stages(self) -> list[Stage]:
        """Both."""
        return [Stage(SFT(), Until(peak=self.imitation)), Stage(GRPO())]
