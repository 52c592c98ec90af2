"""What a run looks like in the terminal: a live line with bars, or plain lines where it is no terminal."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from grao.studies.screen import Advance

_PLAIN_EVERY = 15.0
"""Seconds between two plain lines."""


def open_console() -> Console:
    """Standard output; of several processes only the first one shows anything."""
    return Console(quiet=os.environ.get("RANK", "0") != "0")


class TerminalScreen:
    """Satisfies `grao.studies.run.Screen`.

    Args:
        console: where it is shown.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, line: str) -> None:
        """One line of news."""
        self.console.print(line, highlight=False, markup=False)

    @contextmanager
    def stage(self, title: str) -> Iterator[Advance]:
        """A phase with a bar."""
        begin = time.perf_counter()
        with Bar(self.console, title) as bar:
            yield bar.advance
        self.say(f"{title}: {_clock(time.perf_counter() - begin)}")

    @contextmanager
    def training(self, steps: int) -> Iterator[TrainerCallback]:
        """Shows each step: reward and wins over the reference."""
        begin = time.perf_counter()
        with Bar(self.console, "training") as bar:
            shown = _TrainingBar(bar, steps)
            yield shown
        self.say(f"training: {shown.step} steps, {_clock(time.perf_counter() - begin)}")


class Bar:
    """A bar with some words behind it.

    Args:
        console: where it is shown; if that is no terminal, a plain line now and then.
        title: what is going on.
    """

    def __init__(self, console: Console, title: str) -> None:
        self._title, self._console = title, console
        self._progress = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[words]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=None, words="", start=False)
        self._spoken = time.perf_counter()

    def __enter__(self) -> "Bar":
        self._progress.start()
        self._progress.start_task(self._task)
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def advance(self, done: int, total: int, words: str = "") -> None:
        """Moves to `done` of `total`."""
        self._progress.update(self._task, completed=done, total=total, words=words)
        silent = time.perf_counter() - self._spoken
        if not self._console.is_terminal and (silent > _PLAIN_EVERY or (words and done in (1, total))):
            self._spoken = time.perf_counter()
            self._console.print(f"{self._title} {done}/{total} {words}".rstrip(), highlight=False, soft_wrap=True)


class _TrainingBar(TrainerCallback):
    """Moves the bar of the training by the trainer's log lines."""

    def __init__(self, bar: Bar, steps: int) -> None:
        self._bar, self._steps = bar, steps
        self.step, self._last_look = 0, ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A resumed run does not begin at 0."""
        self._advance(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Moves it."""
        if logs and "watch/second" in logs:
            self._last_look = _watched(logs)
        if logs and "reward/mean" in logs:
            self._advance(state.global_step, _words(logs) + self._last_look)

    def _advance(self, step: int, words: str = "") -> None:
        self.step = step
        self._bar.advance(step, self._steps, words)


def _words(logs: Mapping[str, float]) -> str:
    return (
        f"reward {logs['reward/mean']:+.2f}  wins {logs['verdict/win']:.0%}  "
        f"ties {logs['verdict/tie']:.0%}  {logs['completion/tokens']:.0f} tokens"
    )


def _watched(logs: Mapping[str, float]) -> str:
    alarm = ("", "  DRIFTING APART", "  HACKED?")[int(logs.get("watch/alarm", 0))]
    return f"  second {logs['watch/second']:.0%}{alarm}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
