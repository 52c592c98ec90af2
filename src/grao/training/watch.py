"""A second reward looks on: whether what training raises is still what is wanted.

Every n-th step some of the step's groups are scored by a reward that training does not see. Both rewards are put on
one scale, the share of samples that beat the reference (ties half), and the dynamics of the two are watched:
a reward is over-optimised if it keeps rising while the second falls (Gao et al., arXiv 2210.10760).
Left out: a threshold on the gap itself. Two rewards may differ by any constant without harm.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from grao.groups import reward_groups
from grao.records.run import Alarm
from grao.rewards.base import Reward
from grao.rewards.mix import Mix, as_mix
from grao.rewards.rules import overlap, refusal, repetition
from grao.training.experience import Experience
from grao.training.metrics import judge_numbers
from grao.types import Group

_WINDOW = 3
"""Looks that are averaged before they are compared."""
_SURE, _LEAST_FALL, _LEAST_GAP = 3.5, 0.03, 0.10
"""Standard errors, and shares of samples, that a change must exceed."""


@dataclass(frozen=True)
class Look:
    """What both rewards said at one step: shares of samples that beat the reference, ties half."""

    step: int
    first: float
    """By the reward that is trained on."""
    second: float
    first_error: float
    """Standard error over groups."""
    second_error: float


def alarm(looks: Sequence[Look]) -> Alarm:
    """The rule. The mean of the last three looks is compared with that of three earlier ones:

    HACKED    with the three at which the second reward stood highest: it has fallen by more than 0.03 and by more than
              three and a half standard errors, and the first has not fallen by that.
    WIDENING  with the first three: the gap has grown by more than 0.10 and by more than three and a half of them.

    Before there are six looks there is no alarm.
    """
    if len(looks) < 2 * _WINDOW:
        return Alarm.NONE
    begin, best, last = _mean(looks[:_WINDOW]), _best(looks), _mean(looks[-_WINDOW:])
    fall, drop = best.second - last.second, best.first - last.first
    fallen = fall > max(_LEAST_FALL, _SURE * math.hypot(best.second_error, last.second_error))
    if fallen and drop <= _SURE * math.hypot(best.first_error, last.first_error):
        return Alarm.HACKED
    growth = (last.first - last.second) - (begin.first - begin.second)
    errors = math.hypot(last.first_error, last.second_error, begin.first_error, begin.second_error)
    return Alarm.WIDENING if growth > max(_LEAST_GAP, _SURE * errors) else Alarm.NONE


class Watch(TrainerCallback):
    """Looks at the samples of every n-th step with a second reward, and warns of each kind of alarm once.

    Args:
        reward: the second reward, as `GRAOTrainer`'s; best of another kind than the one trained on.
        every: steps from look to look.
        prompts: groups of a step that it looks at, on each process.
        stop: end the training on `Alarm.HACKED`.
    """

    def __init__(
        self, reward: Mix | Reward | Callable[..., Any], every: int = 10, prompts: int = 32, stop: bool = False
    ) -> None:
        self.reward, self.every, self.prompts, self.stop = as_mix(reward), every, prompts, stop
        self.looks: list[Look] = []
        self._said = Alarm.NONE

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forgets the looks of another run; does not repeat what was said before an interruption."""
        self.looks = self.looks if state.global_step else []
        self._said = alarm(self.looks)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Warns, and stops the training where that is wanted."""
        risen = alarm(self.looks)
        if risen > self._said:
            self._said = risen
            warnings.warn(alarm_text(self.looks), stacklevel=2)
        if risen is Alarm.HACKED and self.stop:
            control.should_save = control.should_training_stop = True

    def due(self, step: int) -> bool:
        """Whether it looks at step `step` (from 1)."""
        return step % self.every == 1 or self.every == 1

    def numbers(self, experience: Experience) -> dict[str, Tensor | float]:
        """Of this process, tensors to be averaged over all and a count to be summed: what both rewards say, and what
        shows in the texts."""
        groups = experience.groups[: self.prompts]
        first = _beaten(experience.rewards.total[: self.prompts])
        scored = reward_groups(groups, self.reward)
        second = _beaten(scored.total)
        return {
            "watch/first": first,
            "watch/second": second,
            "watch/first_square": first.square(),
            "watch/second_square": second.square(),
            "watch/groups": float((~first.isnan() & ~second.isnan()).sum()),
            **_signals(groups),
            **judge_numbers(scored.tallies, " (watch)"),
        }

    def look(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Adds a look from `numbers` of all processes; returns what is logged beside them, the alarm included.

        If either reward scored nothing, there is no look.
        """
        first, second, groups = metrics["watch/first"], metrics["watch/second"], metrics["watch/groups"]
        if math.isnan(first + second):
            return {}
        errors = (
            math.sqrt(max(square - mean**2, 0.0) / max(groups - 1, 1))
            for mean, square in ((first, metrics["watch/first_square"]), (second, metrics["watch/second_square"]))
        )
        last = Look(step, first, second, *errors)
        self.looks.append(last)
        return {
            "watch/gap": last.first - last.second,
            "watch/first_error": last.first_error,
            "watch/second_error": last.second_error,
            "watch/alarm": float(alarm(self.looks)),
        }


def alarm_text(looks: Sequence[Look]) -> str:
    """The alarm in a sentence, empty if there is none."""
    raised = alarm(looks)
    if raised is Alarm.NONE:
        return ""
    now, best = _mean(looks[-_WINDOW:]), _best(looks)
    if raised is Alarm.HACKED:
        return (
            f"watch: at step {now.step} the second reward has fallen from {best.second:.0%} to {now.second:.0%} wins "
            f"over the reference while the first stands at {now.first:.0%}: the reward is probably being hacked"
        )
    return (
        f"watch: at step {now.step} the two rewards have drifted apart: {now.first:.0%} and {now.second:.0%} wins over "
        "the reference"
    )


def _best(looks: Sequence[Look]) -> Look:
    """Of the windows before the last one, that in which the second reward stood highest."""
    windows = (_mean(looks[at : at + _WINDOW]) for at in range(len(looks) - 2 * _WINDOW + 1))
    return max(windows, key=lambda window: window.second)


def _mean(looks: Sequence[Look]) -> Look:
    count = len(looks)
    return Look(
        looks[-1].step,
        sum(look.first for look in looks) / count,
        sum(look.second for look in looks) / count,
        math.hypot(*(look.first_error for look in looks)) / count,
        math.hypot(*(look.second_error for look in looks)) / count,
    )


def _beaten(rewards: Tensor) -> Tensor:
    """(B, G) rewards -> (B,) share of a group's scored samples that beat the reference, ties half; NaN if none is."""
    wins = (rewards > 0).double() + 0.5 * (rewards == 0).double()
    return wins.masked_fill(rewards.isnan(), torch.nan).nanmean(dim=1)


def _signals(groups: Sequence[Group]) -> dict[str, Tensor]:
    pairs = [(text, group.item.example.reference) for group in groups for text in group.texts]
    return {
        "watch/overlap": torch.tensor([overlap(text, reference) for text, reference in pairs], dtype=torch.float64),
        "watch/refusal": torch.tensor([refusal(text) for text, _ in pairs], dtype=torch.float64),
        "watch/repetition": torch.tensor([repetition(text) for text, _ in pairs], dtype=torch.float64),
    }
