"""Imitation first, as far as it pays, then exploration: the order that eq. 3 promises, handed over by measurement.

    SFT     for at most a third of the work, as long as more answers are no worse than their references
    GRPO    from the best of these models, for the work that is left

SFT is left out where exploration has enough to begin with: where one prompt in six of those kept away from training has
a winner among two answers. Not in the paper. What was tried on the way, and how the rule was tested: docs/LOG.md.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from grao.methods.base import Method, Needs, method
from grao.methods.grpo import GRPO
from grao.methods.sft import SFT
from grao.methods.stage import Peak, Stage, Until


@method
class Auto(Method):
    """SFT as far as it pays on prompts kept away, then GRPO."""

    name: Literal["auto"] = "auto"
    """The method."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.33
    """Share of the work that imitation may take."""
    imitation: Peak = field(default_factory=lambda: Peak(every=50, prompts=128, samples=2, enough=0.17))
    """When imitation has ended."""

    needs = Needs(frozen=True)

    def stages(self) -> list[Stage]:
        """Both."""
        return [Stage(SFT(), Until(steps=_MOST, share=self.share, peak=self.imitation)), Stage(GRPO())]


_MOST = 100_000
"""Steps of imitation, whatever its share is."""
