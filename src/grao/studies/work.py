"""How much work a training is, in seconds that no other program on the machine can change.

Optimiser steps cost unequal amounts: one of SFT takes a seventh of one that samples. So a study may give its arms equal
work: optimiser steps, and tokens that are sampled, forwarded, and forwarded and backwarded, each times the seconds that
it takes. These rates are measured once, on a few steps of three methods in the study's own setting, and kept in its
folder (`work.json`): from then on work is counted, not timed. Rewards are not counted.
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
"""Of each method, the first of which is not counted."""


def work(rates: WorkRates, spent: Spent) -> float:
    """Seconds of counted work."""
    return sum((float(getattr(rates, name)) * count for name, count in vars(spent).items()), 0.0)


def measure(recipe: Recipe, split: Split, advance: Advance = lambda done, total: None) -> WorkRates:
    """The rates of a study, from a few steps each of SFT, of GRAO, and of GRPO with a frozen policy.

    Args:
        recipe: of an arm; model, data, sizes and rewards count.
        split: its examples.
        advance: called with the trainings done and all of them.

    Raises:
        InputError: if other programs disturb it so much that more work seems to take less time.
    """
    steps = []
    for number, method in enumerate((SFT(), GRAO(), GRPO(kl=0.04))):
        advance(number, 3)
        steps.append(_median_step(recipe, split, method))
    imitated, explored, frozen = steps
    apart = explored.spent.backwarded - imitated.spent.backwarded
    backwarded = max((explored.update - imitated.update) / apart, 0.0) if apart else 0.0
    step = max(imitated.update - backwarded * imitated.spent.backwarded, 0.0)
    extra = frozen.update - step - backwarded * frozen.spent.backwarded
    forwarded = max(extra / frozen.spent.backwarded, 0.0)
    sampled = (frozen.rollout + explored.rollout) / (frozen.spent.sampled + explored.spent.sampled)
    if not backwarded or not sampled:
        raise InputError("the work of a step could not be measured beside what else runs; try again on an idle machine")
    return WorkRates(step, sampled, forwarded, backwarded, measured=now())


class _Step:
    """A typical step: what it did, and the seconds that it takes where nothing else disturbs it."""

    def __init__(self, metrics: Sequence[dict[str, Any]], seconds: Sequence[float]) -> None:
        names = [name for name in vars(Spent()) if name != "steps"]
        lines = metrics[1:]
        counted = {name: statistics.median(line.get(f"tokens/{name}", 0.0) for line in lines) for name in names}
        rollouts = [line.get("seconds/rollout", 0.0) for line in lines]
        others = [line.get("seconds/reward", 0.0) + rollout for line, rollout in zip(lines, rollouts, strict=True)]
        updates = [whole - other for whole, other in zip(seconds[1:], others, strict=True)]
        self.spent = Spent(1, **{name: round(count) for name, count in counted.items()})
        self.rollout = _least(rollouts, [line.get("tokens/sampled", 0.0) for line in lines]) * self.spent.sampled
        self.update = _least(updates, [line["tokens/backwarded"] for line in lines]) * self.spent.backwarded


def _least(seconds: Sequence[float], tokens: Sequence[float]) -> float:
    """Seconds a token in the step that was disturbed least; 0 where there are no tokens."""
    return min((spent / count for spent, count in zip(seconds, tokens, strict=True) if count), default=0.0)


class _Clock(TrainerCallback):
    """Seconds of each step, its optimiser's included."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begin = 0.0

    def on_step_begin(self, *arguments: Any, **named: Any) -> None:
        """Starts it."""
        self._begin = time.perf_counter()

    def on_step_end(self, *arguments: Any, **named: Any) -> None:
        """Stops it."""
        self.seconds.append(time.perf_counter() - self._begin)


def _median_step(recipe: Recipe, split: Split, method: Method) -> _Step:
    with TemporaryDirectory() as folder:
        training, clock = replace(recipe.training, steps=_STEPS, measure_kl=False), _Clock()
        tried = replace(recipe, method=method, stages=[], training=training, watch=None, output=Path(folder, "run"))
        ready = prepare(tried, split)
        ready.trainer.add_callback(clock)
        ready.trainer.train()
        return _Step(read_metrics(tried.output), clock.seconds)
