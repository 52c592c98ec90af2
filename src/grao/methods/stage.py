"""The stages of a run, and what ends each of them.

Most runs have a single stage, their method. A recipe may list several (`stages`), and a method may itself be a plan of
several stages (`auto`). Each stage starts like a new run from the weights of the stage before it: with a new optimiser
and schedule, its own step count, and those weights as the frozen policy.

A stage may stop early (`Peak`). For that the policy regularly answers validation prompts (held-out training prompts),
always with the same random numbers. The score of a check is the share of answers that are no worse than their
reference. The stage ends after `patience` consecutive checks without a new best score, or once `enough` prompts have a
winning answer. The next stage starts from the weights with the best score, which may be those the stage started from.
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
    """Early stopping: a stage continues while answers to validation prompts improve."""

    every: PositiveInt = 25
    """Steps between checks."""
    prompts: PositiveInt = 64
    """Training prompts held out for validation; at most a quarter of all."""
    samples: PositiveInt = 4
    """Answers sampled per validation prompt."""
    patience: PositiveInt = 1
    """Consecutive checks without a new best score after which the stage ends."""
    enough: Share | None = None
    """End the stage once this share of validation prompts has at least one answer that beats the reference."""


@settings
class Until:
    """When a stage ends: at the first of these conditions."""

    steps: PositiveInt | None = None
    """Optimiser steps."""
    tokens: PositiveInt | None = None
    """Tokens trained on and sampled, including those of validation."""
    share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the work of the whole run, estimated in tokens where the work is not known in advance."""
    peak: Peak | None = Field(default=None)
    """Early stopping on validation prompts."""

    def __post_init__(self) -> None:
        if not any((self.steps, self.tokens, self.share, self.peak)):
            raise ValueError("is empty; give steps, tokens, share or peak")


@dataclass(frozen=True)
class Stage:
    """One method and how long it trains."""

    method: Method
    until: Until | None = None
    """None: for all remaining steps. Only the last stage may leave it out."""
    learning_rate: float | None = None
    """Peak learning rate. None: `training.learning_rate`."""
