"""What a run learns, one stage after another, and what ends each.

Most runs have one stage: their method. A recipe may name several (`stages`), and a method may be a plan of several of
its own (`auto`). Each begins as a run of its own would that is given the weights the one before left: with a new
optimiser and schedule, its own count of steps, and a frozen policy that is these weights.

A stage may go on as long as it pays (`Peak`). Then the policy answers prompts that are kept away from training every so
often, always with the same random numbers, and the share of answers that are no worse than the reference is taken. The
stage ends once `patience` looks in a row were no better than the best before them, or where there is `enough` to
explore from, and hands over the weights of the best look, which may be those that it began with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from grao.settings import PositiveInt, Share, settings

if TYPE_CHECKING:
    from grao.methods.base import Method


@settings
class Peak:
    """A stage goes on as long as it pays on prompts that are kept away from training."""

    every: PositiveInt = 25
    """Steps from look to look."""
    prompts: PositiveInt = 64
    """Training prompts kept away for the looks; at most a quarter of all."""
    samples: PositiveInt = 4
    """Answers to each."""
    patience: PositiveInt = 1
    """Looks in a row that are not better than the best before they end the stage."""
    enough: Share | None = None
    """Share of the prompts with at least one answer that wins from which on the stage ends at once; by default none."""


@settings
class Until:
    """What ends a stage: whichever of these comes first."""

    steps: PositiveInt | None = None
    """Optimiser steps."""
    tokens: PositiveInt | None = None
    """Tokens trained on and sampled, those of the looks included."""
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the work of the whole run; of work that is not known beforehand it is an estimate in tokens."""
    peak: Peak | None = Field(default=None)
    """Answers to prompts kept away that get no better."""

    def __post_init__(self) -> None:
        if not any((self.steps, self.tokens, self.share, self.peak)):
            raise ValueError("says nothing; give steps, tokens, share or peak")


@dataclass(frozen=True)
class Stage:
    """One method, and how long."""

    method: Method
    until: Until | None = None
    """None: for all steps that are left, as only the last stage may."""
    learning_rate: float | None = None
    """None: that of the training."""
