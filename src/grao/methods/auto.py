"""Imitation, then exploration: the order that eq. 3 aims at, with the switch decided by measurement.

    SFT     while the share of answers no worse than their references rises, for at most a third of the work
    GRPO    from the weights with the highest such share, for the rest of the work

SFT is skipped if exploration can start right away: if for one validation prompt in six at least one of two answers
beats the reference. This method is not in the paper; docs/LOG.md records how the rule was found and tested.
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
    """When imitation ends."""

    every: PositiveInt = 50
    """Steps between checks."""
    prompts: PositiveInt = 128
    """Training prompts held out for validation; at most a quarter of all."""
    samples: PositiveInt = 2
    """Answers sampled per validation prompt."""
    enough: Share | None = 0.17
    """End imitation once this share of validation prompts has at least one answer that beats the reference."""


@method
class Auto(Method):
    """SFT while answers to validation prompts improve, then GRPO."""

    name: Literal["auto"] = "auto"
    """The method."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.33
    """Largest share of the work that imitation may take."""
    imitation: Imitation = field(default_factory=lambda: Imitation())
    """When imitation ends."""

    needs = Needs(frozen=True)

    def stages(self) -> list[Stage]:
        """Return the imitation stage and the exploration stage."""
        return [Stage(SFT(), Until(share=self.share, peak=self.imitation)), Stage(GRPO())]
