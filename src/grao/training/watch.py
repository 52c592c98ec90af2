"""The watch: a second reward that detects hacking of the first.

Every n-th step a reward that training does not use scores some of the step's groups. Both rewards are put on one scale,
the share of samples that beat the reference (a tie counts half). A reward is over-optimised if it keeps rising while
the second one falls (Gao et al., arXiv 2210.10760).
Left out: a threshold on the gap itself, for two rewards may differ by any constant without harm.
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
"""Number of looks averaged before they are compared."""
_SURE, _LEAST_FALL, _LEAST_GAP = 3.5, 0.03, 0.10
"""A change must exceed so many standard errors, and so large a share of samples, to raise an alarm."""


@dataclass(frozen=True)
class Look:
    """Shares of samples that beat the reference at one step, by both rewards; a tie counts half."""

    step: int
    first: float
    """By the training reward."""
    second: float
    """By the watch's reward."""
    first_error: float
    """Standard error over groups."""
    second_error: float


def alarm(looks: Sequence[Look]) -> Alarm:
    """Return the alarm raised by the looks so far.

    The mean of the last three looks is compared with that of three earlier ones:

    HACKED    Since its best three looks the second reward has fallen by more than 0.03 and more than 3.5 standard
              errors, and the first has not fallen by more than 3.5 standard errors.
    WIDENING  Since the first three looks the gap has grown by more than 0.10 and more than 3.5 standard errors.

    There is no alarm before the sixth look.
    """
    if len(looks) < 2 * _WINDOW:
        return Alarm.NONE
    first, best, last = _mean(looks[:_WINDOW]), _best(looks), _mean(looks[-_WINDOW:])
    fall, drop = best.second - last.second, best.first - last.first
    fallen = fall > max(_LEAST_FALL, _SURE * math.hypot(best.second_error, last.second_error))
    if fallen and drop <= _SURE * math.hypot(best.first_error, last.first_error):
        return Alarm.HACKED
    growth = (last.first - last.second) - (first.first - first.second)
    errors = math.hypot(last.first_error, last.second_error, first.first_error, first.second_error)
    return Alarm.WIDENING if growth > max(_LEAST_GAP, _SURE * errors) else Alarm.NONE


class Watch(TrainerCallback):
    """Scores samples of every n-th step with a second reward, and warns once of each kind of alarm.

    Args:
        reward: the second reward, as for `GRAOTrainer`; preferably of another kind than the training reward.
        every: steps between looks.
        prompts: number of a step's groups to score, per process.
        stop: end the training on `Alarm.HACKED`.
    """

    def __init__(
        self, reward: Mix | Reward | Callable[..., Any], every: int = 10, prompts: int = 32, stop: bool = False
    ) -> None:
        self.reward, self.every, self.prompts, self.stop = as_mix(reward), every, prompts, stop
        self.looks: list[Look] = []
        self._warned = Alarm.NONE

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Clear the looks of an earlier run; a resumed run repeats no warning."""
        self.looks = self.looks if state.global_step else []
        self._warned = alarm(self.looks)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Warn of a new alarm, and stop the training if `stop` is set."""
        current = alarm(self.looks)
        if current > self._warned:
            self._warned = current
            warnings.warn(alarm_text(self.looks), stacklevel=2)
        if current is Alarm.HACKED and self.stop:
            control.should_save = control.should_training_stop = True

    def due(self, step: int) -> bool:
        """Whether step `step` (from 1) is scored."""
        return step % self.every == 1 or self.every == 1

    def numbers(self, experience: Experience) -> dict[str, Tensor | float]:
        """Score this process's groups.

        Returns:
            Metrics of both rewards and of the texts: tensors to be averaged over all processes, numbers to be summed.
        """
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
        """Add a look; skip it if either reward scored nothing.

        Args:
            step: from 1.
            metrics: the `numbers`, reduced over all processes.

        Returns:
            Further metrics to log, with the alarm.
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
    """Describe the alarm in a sentence; empty if there is none."""
    raised = alarm(looks)
    if raised is Alarm.NONE:
        return ""
    now, best = _mean(looks[-_WINDOW:]), _best(looks)
    if raised is Alarm.HACKED:
        return (
            f"watch: at step {now.step} the second reward has fallen from {best.second:.0%} to {now.second:.0%} wins "
            f"over the reference while the first is at {now.first:.0%}: the reward is probably being hacked"
        )
    return (
        f"watch: at step {now.step} the gap between the two rewards has widened: {now.first:.0%} and "
        f"{now.second:.0%} wins over the reference"
    )


def _best(looks: Sequence[Look]) -> Look:
    """Return the mean of the window, before the last one, in which the second reward was highest."""
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
    """Return (B,) shares of scored samples that beat the reference, from (B, G) rewards; NaN without scored samples."""
    wins = (rewards > 0).double() + 0.5 * (rewards == 0).double()
    return wins.masked_fill(rewards.isnan(), torch.nan).nanmean(dim=1)


def _signals(groups: Sequence[Group]) -> dict[str, Tensor]:
    pairs = [(text, group.item.example.reference) for group in groups for text in group.texts]
    return {
        "watch/overlap": torch.tensor([overlap(text, reference) for text, reference in pairs], dtype=torch.float64),
        "watch/refusal": torch.tensor([refusal(text) for text, _ in pairs], dtype=torch.float64),
        "watch/repetition": torch.tensor([repetition(text) for text, _ in pairs], dtype=torch.float64),
    }
