"""What happens beside the steps: metrics on disk, and Ctrl-C that loses nothing."""

import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Self

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from grao.errors import InputError
from grao.records.metrics import MetricsLog, read_metrics
from grao.training.watch import Alarm, Watch, alarm, words


class MetricsCallback(TrainerCallback):
    """Appends every logged step to `metrics.jsonl`."""

    def __init__(self, folder: Path) -> None:
        self._log = MetricsLog(folder)
        self._begin = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forgets what a resumed run will do again; refuses to write into another run."""
        self._begin = time.perf_counter()
        if state.global_step == 0 and self._log.path.exists():
            folder = self._log.path.parent
            raise InputError(f"{folder} already holds another run; resume it or choose another output folder")
        if state.is_world_process_zero:
            self._begin -= self._log.keep_until(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """One line a training step; evaluations and the summary at the end are none."""
        if state.is_world_process_zero and logs and "loss" in logs:
            seconds = time.perf_counter() - self._begin
            self._log.append({"step": state.global_step, "seconds": seconds, **logs})


class WatchCallback(TrainerCallback):
    """Says it when the watch raises an alarm, each kind once, and stops the training where that is wanted."""

    def __init__(self, watch: Watch, folder: Path) -> None:
        self._watch, self._folder = watch, folder
        self._said = Alarm.NONE

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Takes up what was seen before an interruption."""
        self._watch.remember(line for line in read_metrics(self._folder) if line["step"] <= state.global_step)
        self._said = alarm(self._watch.looks)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Warns and stops."""
        found = alarm(self._watch.looks)
        if found > self._said:
            self._said = found
            warnings.warn(words(self._watch.looks), stacklevel=2)
        if found is Alarm.HACKED and self._watch.stop:
            control.should_save = control.should_training_stop = True


class SaveLastStep(TrainerCallback):
    """A checkpoint after the last step: what comes after the training may fail, and the run goes on from there."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Saves after the last step."""
        control.should_save |= state.global_step >= state.max_steps


class InterruptGuard(TrainerCallback):
    """Within its context, Ctrl-C finishes the step, saves a checkpoint and stops; a second one stops at once.

    Args:
        notify: called once with a line for the user.
    """

    def __init__(self, notify: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> None:  # noqa: T201
        self.interrupted = False
        self._notify = notify
        self._previous: Any = None

    def __enter__(self) -> Self:
        self._previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Saves and stops if the signal came."""
        if self.interrupted:
            control.should_save = control.should_training_stop = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            signal.signal(signal.SIGINT, self._previous)
            raise KeyboardInterrupt
        self.interrupted = True
        self._notify("stopping after this step, the checkpoint will be saved; press Ctrl-C again to stop at once")
