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
from grao.settings import PositiveInt, Share, settings


@settings
class Imitation(Peak):
    """When imitation has ended."""

    every: PositiveInt = 50
    """Steps from look to look."""
    prompts: PositiveInt = 128
    """Training prompts kept away for the looks; at most a quarter of all."""
    samples: PositiveInt = 2
    """Answers to each."""
    enough: Share | None = 0.17
    """Share of these prompts with an answer that wins from which on exploration has enough to begin with."""


@method
class Auto(Method):
    """SFT as far as it pays on prompts kept away, then GRPO."""

    name: Literal["auto"] = "auto"
    """The method."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.33
    """Share of the work that imitation may take."""
    imitation: Imitation = field(default_factory=lambda: Imitation())
    """When imitation has ended."""

    needs = Needs(frozen=True)

    def stages(self) -> list[Stage]:
        """Both."""
        return [Stage(SFT(), Until(share=self.share, peak=self.imitation)), Stage(GRPO())]
