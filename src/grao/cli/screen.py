"""What runs and studies look like in the terminal: a live line with bars, or plain lines where it is no terminal."""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from datasets.utils.logging import disable_progress_bar as disable_datasets_bar
from huggingface_hub.utils import logging as hub_logging
from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task
from rich.table import Table
from rich.text import Text
from transformers import TrainerCallback, TrainerState
from transformers.utils import logging as transformers_logging

from grao.reports.tables import duration
from grao.studies.prepare import Advance
from grao.visible import visible

_PLAIN_EVERY = 15.0
"""Seconds between two plain lines."""
_BAR, _SHORTEST_BAR = 24, 6
"""Characters of a bar, at most and at least; without room for that there is none."""


def open_console() -> Console:
    """Standard output; of several processes only the first one shows anything."""
    return Console(quiet=os.environ.get("RANK", "0") != "0")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Progress bars and advice of transformers and datasets off; our own warnings as one plain line each."""
    transformers_logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_datasets_bar()
    with warnings.catch_warnings(action="default"):
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.formatwarning = lambda message, *_, **__: f"warning: {visible(str(message))}\n"
        logging.basicConfig(format="warning: %(message)s")
        yield


class TerminalScreen:
    """Satisfies `Screen` and `StudyScreen` of `grao.studies.prepare`.

    Args:
        console: where it is shown.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, line: str) -> None:
        """One line of news."""
        self.console.print(visible(line), highlight=False, markup=False)

    def show(self, table: Table) -> None:
        """A table."""
        self.console.print(table)

    def copyable(self, text: str) -> None:
        """Text whose lines stay whole, whatever the width."""
        self.console.print(visible(text), highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, title: str) -> Iterator[Advance]:
        """A phase with a bar; it ends with how long it took."""
        with _progress(self.console, title) as phase:
            yield phase.advance
        self.say(f"{title}: {_clock(phase.elapsed)}")

    @contextmanager
    def training(self, steps: int) -> Iterator[TrainerCallback]:
        """The phase of training: each step with its reward and wins over the reference."""
        with _progress(self.console, "training") as phase:
            shown = _TrainingBar(phase, steps, self.say)
            yield shown
        last = f"; the last: {phase.words}" if phase.words else ""
        self.say(f"training: {shown.step} steps, {_clock(phase.elapsed)}{last}")

    @contextmanager
    def cell(self, title: str, left: float | None) -> Iterator[Advance]:
        """One run of the study, with the seconds that are `left` to the end of the study behind it."""
        words = f"study: about {duration(left)} left" if left is not None and self.console.is_terminal else ""
        with _progress(self.console, title) as phase:
            yield lambda done, total: phase.advance(done, total, words)


@contextmanager
def terminal() -> Iterator[TerminalScreen]:
    """The screen of a command, while which the libraries are quiet."""
    with quiet_libraries():
        yield TerminalScreen(open_console())


class _Phase:
    """A phase that is under way.

    Args:
        title: what is going on.
        clock: the time in seconds.
    """

    def __init__(self, title: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self.title, self.words = visible(title), ""
        self.done = self.total = 0
        self._clock, self._begin, self._first = clock, clock(), 0

    def advance(self, done: int, total: int, words: str = "") -> None:
        """So much is done; `words` say how it goes."""
        self.done, self.total, self.words = done, total, visible(words)

    def resume(self, done: int) -> None:
        """So much was done before the phase began."""
        self.done = self._first = done

    @property
    def elapsed(self) -> float:
        """Seconds since the phase began."""
        return self._clock() - self._begin

    @property
    def left(self) -> float | None:
        """Seconds to its end, if what is left takes as long as what is done."""
        here = self.done - self._first
        return self.elapsed * (self.total - self.done) / here if here > 0 else None

    def line(self, width: int | None = None) -> str:
        """The phase in a line: what is done, elapsed and left always stand in it; a bar if there is room.

        Args:
            width: of the terminal; None for a plain line, as long as it needs to be.
        """
        count = f"{self.done:,}/{self.total:,}" if self.total else ""
        left = f"{duration(self.left)} left" if self.left is not None and self.done < self.total else ""
        facts = ", ".join(filter(None, (count, duration(self.elapsed), left)))
        if width is None:
            return ", ".join(filter(None, (f"{self.title} {facts}", self.words)))
        room = width - len(self.title) - len(facts) - len(self.words) - 3 * bool(self.words) - 4
        size = min(_BAR, room) if self.total and room >= _SHORTEST_BAR else 0
        filled = round(size * self.done / self.total) if self.total else 0
        bar = f"{'#' * filled}{'.' * (size - filled)}  " if size else ""
        return _fitted(f"{self.title}  {bar}{facts}", f"   {self.words}" if self.words else "", width)


def _fitted(line: str, words: str, width: int) -> str:
    """A line and words behind it, which are cut where they pass the width."""
    room = width - len(line)
    return line + (words if len(words) <= room else f"{words[: room - 1]}…" if room > _SHORTEST_BAR else "")


class _Line(ProgressColumn):
    """The whole line of a phase, at the width that the terminal has at the moment."""

    def __init__(self, console: Console, phase: _Phase) -> None:
        super().__init__()
        self._console, self._phase = console, phase

    def render(self, task: Task) -> Text:
        """See `_Phase.line`."""
        return Text(self._phase.line(self._console.width - 1), no_wrap=True)


@contextmanager
def _progress(console: Console, title: str) -> Iterator[_Phase]:
    """Shows a phase while it lasts: a live line, or a plain one every 15 seconds where there is no terminal."""
    phase, ended = _Phase(title), Event()

    def speak() -> None:
        while not ended.wait(_PLAIN_EVERY):
            console.print(phase.line(), highlight=False, markup=False, soft_wrap=True)

    if console.is_terminal:
        with Progress(_Line(console, phase), console=console, transient=True) as shown:
            shown.add_task(title)
            yield phase
        return
    speaker = Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield phase
    finally:
        ended.set()
        speaker.join()


class _TrainingBar(TrainerCallback):
    """Moves the line of the training with every step, and says what is measured on held-out prompts."""

    def __init__(self, phase: _Phase, steps: int, say: Callable[[str], None]) -> None:
        self._phase, self._steps, self._say = phase, steps, say
        self.step, self._alarm, self._words, self._second = 0, "", "", ""

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """A resumed run does not begin at 0."""
        self._phase.resume(state.global_step)
        self._move(state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Counts, whatever is logged."""
        self._move(state.global_step)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Takes up what is to stand behind the count."""
        logs = logs or {}
        if "watch/second" in logs:
            self._alarm = ("", "DRIFTING APART  ", "HACKED?  ")[int(logs.get("watch/alarm", 0))]
            self._second = f"  second {logs['watch/second']:.0%}"
        if "eval_reward" in logs:
            verdicts = f"wins {logs['eval_win']:.0%}  ties {logs['eval_tie']:.0%}"
            self._say(f"step {state.global_step}, held-out prompts: eval reward {logs['eval_reward']:+.2f}  {verdicts}")
        if "reward/mean" in logs:
            verdicts = f"wins {logs['verdict/win']:.0%}  ties {logs['verdict/tie']:.0%}"
            reward = f"reward {logs['reward/mean']:+.2f} over the reference"
            self._words = f"{verdicts}  {reward}  {logs['completion/tokens']:.0f} tokens"
        elif "loss" in logs:
            self._words = f"loss {float(logs['loss']):.3f}"
        self._move(state.global_step)

    def _move(self, step: int) -> None:
        self.step = step
        self._phase.advance(step, self._steps, self._alarm + self._words + self._second)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
