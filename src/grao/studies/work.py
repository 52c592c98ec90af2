"""Counts the work of a training, in seconds that do not depend on other programs on the machine.

Optimizer steps differ in cost: a step of SFT takes a seventh of one that samples. So a study may give its arms equal
work: the number of steps, sampled tokens, forward tokens, and forward and backward tokens, each times its seconds per
unit. These rates are measured once, on a few steps of three methods in the study's own setting, and kept in its folder
(`work.json`); from then on work is counted, not timed. Rewards are not counted.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import TrainerCallback

from grao.config.recipe import Recipe
from grao.data.load import Split
from grao.errors import InputError
from grao.methods.base import Method
from grao.methods.grao import GRAO
from grao.methods.grpo import GRPO
from grao.methods.sft import SFT
from grao.records.run import now, read_metrics
from grao.records.work import WorkRates
from grao.studies.prepare import Advance, prepare
from grao.training.stages import Spent

_STEPS = 9
"""Steps per method, of which the first is not counted."""


def work(rates: WorkRates, spent: Spent) -> float:
    """Return the counted work in seconds."""
    return sum((float(getattr(rates, name)) * count for name, count in vars(spent).items()), 0.0)


def measure(recipe: Recipe, split: Split, advance: Advance = lambda done, total: None) -> WorkRates:
    """Measure the rates of a study, on a few steps each of SFT, GRAO, and GRPO with a frozen reference policy.

    Args:
        recipe: of an arm; model, data, sizes and rewards are used.
        split: its examples.
        advance: called with (trainings done, trainings in total).

    Raises:
        InputError: if other programs disturb the measurement so much that more work seems to take less time.
    """
    steps = []
    for number, method in enumerate((SFT(), GRAO(), GRPO(kl=0.04))):
        advance(number, 3)
        steps.append(_median_step(recipe, split, method))
    sft, grao, grpo = steps
    difference = grao.spent.backwarded - sft.spent.backwarded
    backwarded = max((grao.update - sft.update) / difference, 0.0) if difference else 0.0
    step = max(sft.update - backwarded * sft.spent.backwarded, 0.0)
    extra = grpo.update - step - backwarded * grpo.spent.backwarded
    forwarded = max(extra / grpo.spent.backwarded, 0.0)
    sampled = (grpo.rollout + grao.rollout) / (grpo.spent.sampled + grao.spent.sampled)
    if not backwarded or not sampled:
        raise InputError("other programs disturbed the measurement of the work; try again on an idle machine")
    return WorkRates(step, sampled, forwarded, backwarded, measured=now())


class _Step:
    """A typical step: its work, and the seconds that it takes undisturbed."""

    def __init__(self, metrics: Sequence[dict[str, Any]], seconds: Sequence[float]) -> None:
        names = [name for name in vars(Spent()) if name != "steps"]
        lines = metrics[1:]
        counts = {name: statistics.median(line.get(f"tokens/{name}", 0.0) for line in lines) for name in names}
        rollouts = [line.get("seconds/rollout", 0.0) for line in lines]
        others = [line.get("seconds/reward", 0.0) + rollout for line, rollout in zip(lines, rollouts, strict=True)]
        updates = [total - other for total, other in zip(seconds[1:], others, strict=True)]
        self.spent = Spent(1, **{name: round(count) for name, count in counts.items()})
        self.rollout = _least(rollouts, [line.get("tokens/sampled", 0.0) for line in lines]) * self.spent.sampled
        self.update = _least(updates, [line["tokens/backwarded"] for line in lines]) * self.spent.backwarded


def _least(seconds: Sequence[float], tokens: Sequence[float]) -> float:
    """Return the seconds per token in the least disturbed step; 0 without tokens."""
    return min((spent / count for spent, count in zip(seconds, tokens, strict=True) if count), default=0.0)


class _Clock(TrainerCallback):
    """Times each step, including the optimizer."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begin = 0.0

    def on_step_begin(self, *arguments: Any, **named: Any) -> None:
        """Start timing."""
        self._begin = time.perf_counter()

    def on_step_end(self, *arguments: Any, **named: Any) -> None:
        """Stop timing."""
        self.seconds.append(time.perf_counter() - self._begin)


def _median_step(recipe: Recipe, split: Split, method: Method) -> _Step:
    with TemporaryDirectory() as folder:
        training, clock = replace(recipe.training, steps=_STEPS, measure_kl=False), _Clock()
        trial = replace(recipe, method=method, stages=[], training=training, watch=None, output=Path(folder, "run"))
        ready = prepare(trial, split)
        ready.trainer.add_callback(clock)
        ready.trainer.train()
        return _Step(read_metrics(trial.output), clock.seconds)
