"""Trainer callbacks: metrics on disk, a checkpoint after the last step, and stopping on signals without loss."""

import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from grao.errors import InputError
from grao.records.checkpoints import checkpoints
from grao.records.collapse import CollapseWatch
from grao.records.files import sync
from grao.records.run import MetricsLog
from grao.signals import handled, stop

_HASTE = 2.0
"""A second Ctrl-C within so many seconds is ignored: launchers forward the signal that the terminal already sent."""


class MetricsCallback(TrainerCallback):
    """Append every logged step to `metrics.jsonl`, and warn when the policy collapses."""

    def __init__(self, folder: Path) -> None:
        self._log = MetricsLog(folder)
        self._collapse = CollapseWatch()
        self._begin = 0.0
        self._training = False

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Drop the lines of steps that a resumed run repeats.

        Raises:
            InputError: if a new run would write into the folder of another.
        """
        self._begin, self._training = time.perf_counter(), True
        folder = self._log.path.parent
        if state.global_step == 0 and (self._log.path.exists() or checkpoints(folder / "checkpoints")):
            raise InputError(f"{folder} already holds another run; resume it or choose another output folder")
        if state.is_world_process_zero:
            self._begin -= self._log.keep_until(state.global_step)
            self._collapse = CollapseWatch()
            for line in state.log_history:  # so that no warning is repeated
                if "learning_rate" in line:
                    self._collapse.look(line)

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Append a line per training log and per evaluation during training (`eval/reward`)."""
        if state.is_world_process_zero and self._training and logs:
            measured = {f"eval/{name[5:]}": value for name, value in logs.items() if name.startswith("eval_")}
            if measured or "learning_rate" in logs:
                seconds = time.perf_counter() - self._begin
                line = {"step": state.global_step, "seconds": seconds, **(measured or logs)}
                self._log.append(line)
                for words in [] if measured else self._collapse.look(line):
                    warnings.warn(words, stacklevel=2)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Stop recording: later evaluations are not part of the training."""
        self._training = False

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Flush the log to disk, so that it is as durable as the checkpoint."""
        if state.is_world_process_zero and self._log.path.exists():
            sync(self._log.path)


class SaveLastStep(TrainerCallback):
    """Save a checkpoint after the last step, so that a run whose final evaluation fails can be resumed."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Request a checkpoint after the last step."""
        control.should_save |= state.global_step >= state.max_steps


class InterruptGuard(TrainerCallback):
    """Context in which Ctrl-C, SIGTERM and SIGHUP finish the step, save a checkpoint and stop.

    A second Ctrl-C stops at once. With several processes, a signal to one of them stops all.

    Args:
        notify: called once with a message for the user.
    """

    def __init__(self, notify: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> None:  # noqa: T201
        self.interrupted = False
        self._notify = notify
        self._handled = ExitStack()
        self._since = 0.0

    def __enter__(self) -> Self:
        self._handled.enter_context(handled(self._on_signal))
        return self

    def __exit__(self, *error: object) -> None:
        self._handled.close()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop if this or another process got a signal."""
        if args.world_size > 1:
            signalled = torch.tensor(float(self.interrupted), device=args.device)
            torch.distributed.all_reduce(signalled, torch.distributed.ReduceOp.MAX)
            self.interrupted = bool(signalled)
        if self.interrupted:
            control.should_save = control.should_training_stop = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.interrupted and now - self._since > _HASTE:
            self._handled.close()
            stop(number, frame)
        if not self.interrupted:
            self.interrupted, self._since = True, now
            with suppress(OSError, RuntimeError):  # the terminal is gone, or a line is being written
                self._notify("stopping after this step and saving a checkpoint; press Ctrl-C again to stop at once")
