"""Progress of runs and studies: a live line with a bar in a terminal, plain lines elsewhere."""

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from datasets.utils.logging import disable_progress_bar as disable_datasets_bar
from huggingface_hub.utils import logging as hub_logging
from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task
from rich.table import Table
from rich.text import Text
from transformers import TrainerCallback, TrainerState
from transformers.utils import logging as transformers_logging

from grao.config.recipe import Recipe
from grao.heartbeat import every
from grao.reports.tables import duration
from grao.studies.prepare import Advance, LastSample
from grao.studies.spending import Spending
from grao.training.loglines import evaluation_words, step_words
from grao.visible import visible

_PLAIN_EVERY = 15.0
"""Seconds between two plain lines."""
_BAR, _SHORTEST_BAR = 24, 6
"""Most and fewest characters of a bar; with less room there is none."""
_SHORTEST_TITLE = 12
"""Characters that a title keeps when it is cut to make room for counts, times and costs."""
_LONGEST_SAMPLE = 400
"""Characters of a prompt or an answer where there is no terminal."""


def open_console() -> Console:
    """Return the console of standard output; with several processes only the first one prints."""
    return Console(quiet=os.environ.get("RANK", "0") != "0")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Turn off progress bars and advice of transformers and datasets; print our own warnings as plain lines."""
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
        console: where it prints.
        samples: how many answers of the last step to show while training.
    """

    def __init__(self, console: Console, samples: int = 0) -> None:
        self.console, self.spending = console, Spending()
        self._samples = samples
        self._prefixes: Iterator[str] = iter(())

    def say(self, line: str) -> None:
        """Print one line; in a terminal it is wrapped between words."""
        self.console.print(visible(line), highlight=False, markup=False, soft_wrap=not self.console.is_terminal)

    def show(self, table: Table) -> None:
        """Print a table."""
        self.console.print(table)

    def copyable(self, text: str) -> None:
        """Print text without wrapping its lines."""
        self.console.print(visible(text), highlight=False, markup=False, soft_wrap=True)

    def follow(self, recipe: Recipe) -> None:
        """From here on, show in every phase how much the judges of this recipe were asked and paid."""
        self.spending.follow(recipe)

    def phases(self, count: int) -> None:
        """Set how many phases follow; each shows its number."""
        self._prefixes = iter([f"{number}/{count} " for number in range(1, count + 1)])

    @contextmanager
    def stage(self, title: str) -> Iterator[Advance]:
        """Show a phase with a bar; at its end, say how long it took."""
        with self._phase(next(self._prefixes, "") + title) as phase:
            yield phase.advance
        self.say(phase.summary())

    @contextmanager
    def training(self, steps: int, samples: Callable[[int], Sequence[LastSample]]) -> Iterator[TrainerCallback]:
        """Show the training phase: each step with its reward, its wins over the reference and, if wanted, samples."""
        with self._phase(next(self._prefixes, "") + "training") as phase:
            bar = _TrainingBar(phase, steps, self.say, lambda: samples(self._samples) if self._samples else ())
            yield bar
        self.say(phase.summary(f"{bar.step} steps, ", f"; the last: {phase.words}" if phase.words else ""))
        for line in phase.sample_lines(self.console.width if self.console.is_terminal else _LONGEST_SAMPLE):
            self.say(line)

    @contextmanager
    def cell(self, title: str, left: float | None) -> Iterator[Advance]:
        """Show one run of a study, and in a terminal how long the study will still take (`left`, in seconds)."""
        words = f"study: about {duration(left)} left" if left is not None and self.console.is_terminal else ""
        with self._phase(title) as phase:
            yield lambda done, total: phase.advance(done, total, words)

    @contextmanager
    def _phase(self, title: str) -> Iterator["_Phase"]:
        """Show a phase while it lasts: a live line in a terminal, a plain line every 15 seconds elsewhere."""
        console, phase, last_step = self.console, _Phase(title, spent=lambda: self.spending.words), 0

        def speak() -> None:
            nonlocal last_step
            step, _ = phase.samples
            text = phase.line() if step == last_step else phase.text()
            last_step = step
            console.print(text, highlight=False, markup=False, soft_wrap=True)

        if console.is_terminal:
            with Progress(_Lines(console, phase), console=console, transient=True, refresh_per_second=4) as bars:
                bars.add_task(title)
                yield phase
            return
        with every(_PLAIN_EVERY, speak):
            yield phase


@contextmanager
def terminal(samples: int = 0) -> Iterator[TerminalScreen]:
    """Yield the screen of a command, and keep libraries quiet meanwhile. For `samples` see `TerminalScreen`."""
    with quiet_libraries():
        yield TerminalScreen(open_console(), samples)


class _Phase:
    """A phase in progress.

    Args:
        title: what is being done.
        clock: returns the time in seconds.
        spent: returns in words how much judges were asked and paid so far.
    """

    def __init__(
        self, title: str, clock: Callable[[], float] = time.perf_counter, spent: Callable[[], str] = lambda: ""
    ) -> None:
        self.title, self.words, self._spent = visible(title), "", spent
        self.samples: tuple[int, Sequence[LastSample]] = 0, ()
        """A step and its answers."""
        self.done = self.total = 0
        self._clock, self._begin, self._first = clock, clock(), 0

    def advance(self, done: int, total: int, words: str = "") -> None:
        """Set how much is done; `words` are shown beside it."""
        self.done, self.total, self.words = done, total, visible(words)

    def resume(self, done: int) -> None:
        """Set how much was done before the phase began."""
        self.done = self._first = done

    @property
    def elapsed(self) -> float:
        """Seconds since the phase began."""
        return self._clock() - self._begin

    @property
    def left(self) -> float | None:
        """Seconds to the end of the phase at the speed so far; None if nothing is done yet."""
        done_now = self.done - self._first
        return self.elapsed * (self.total - self.done) / done_now if done_now > 0 else None

    def summary(self, counted: str = "", words: str = "") -> str:
        """Return how long the phase took, and how much judges were asked and paid by its end."""
        spent = self._spent()
        return f"{self.title}: {counted}{duration(self.elapsed)}{f', {spent} so far' if spent else ''}{words}"

    def text(self, width: int | None = None) -> str:
        """Return the line of the phase and the samples below it; see `line`."""
        return "\n".join([self.line(width), *self.sample_lines(_LONGEST_SAMPLE if width is None else width)])

    def line(self, width: int | None = None) -> str:
        """Return the phase in a line. Count, elapsed and remaining time are always shown, costs if there is room.

        Where space is short the bar goes first, then the words are cut, then the title.

        Args:
            width: of the terminal; None for a plain line of any length.
        """
        count = f"{self.done:,}/{self.total:,}" if self.total else ""
        left = f"{duration(self.left)} left" if self.left is not None and self.done < self.total else ""
        facts, spent = ", ".join(filter(None, (count, duration(self.elapsed), left))), self._spent()
        if width is None:
            return ", ".join(filter(None, (f"{self.title} {facts}", spent, self.words)))
        if spent and width - len(facts) - len(spent) - 4 >= _SHORTEST_TITLE:
            facts = f"{facts}, {spent}"
        title = _cut(self.title, max(width - len(facts) - 2, _SHORTEST_TITLE))
        room = width - len(title) - len(facts) - len(self.words) - 3 * bool(self.words) - 4
        size = min(_BAR, room) if self.total and room >= _SHORTEST_BAR else 0
        filled = round(size * self.done / self.total) if self.total else 0
        bar = f"{'#' * filled}{'.' * (size - filled)}  " if size else ""
        line = f"{title}  {bar}{facts}"
        room = width - len(line) - 3
        return f"{line}   {_cut(self.words, room)}" if self.words and room >= _SHORTEST_BAR else line

    def sample_lines(self, width: int) -> list[str]:
        """Return the samples, two lines each, cut to `width`."""
        step, samples = self.samples
        lines = [f"answers of step {step}, each with its reward over the reference:"] if samples else []
        for sample in samples:
            prompt, text = (" ".join(visible(words).split()) for words in (sample.prompt, sample.text))
            reward = "no reward" if math.isnan(sample.reward) else f"{sample.reward:+.2f}"
            lines += [_cut(f"  {prompt}", width), _cut(f"  {reward:>9}  {text}", width)]
        return lines


def _cut(text: str, width: int) -> str:
    cut = Text(text)
    cut.truncate(width, overflow="ellipsis")
    return cut.plain


class _Lines(ProgressColumn):
    """Progress column that shows a whole phase, at the current width of the terminal."""

    def __init__(self, console: Console, phase: _Phase) -> None:
        super().__init__()
        self._console, self._phase = console, phase

    def render(self, task: Task) -> Text:
        """Return `_Phase.text`."""
        return Text(self._phase.text(self._console.width - 1), no_wrap=True)


class _TrainingBar(TrainerCallback):
    """Update the training line with every step and print what is measured on held-out prompts."""

    def __init__(
        self, phase: _Phase, steps: int, say: Callable[[str], None], samples: Callable[[], Sequence[LastSample]]
    ) -> None:
        self._phase, self._steps, self._say, self._samples = phase, steps, say, samples
        self.step, self._alarm, self._words, self._second = 0, "", "", ""

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Begin at the current step, since a resumed run does not start at 0."""
        self._phase.resume(state.global_step)
        self._move(state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Count every step, logged or not. The total is read again, since a stage may have ended early."""
        self._steps = state.max_steps
        self._phase.samples = state.global_step, self._samples()
        self._move(state.global_step)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Take the words that are shown beside the count from the logs."""
        logs = logs or {}
        if "watch/second" in logs:
            self._alarm = ("", "GAP WIDENING  ", "HACKED?  ")[int(logs.get("watch/alarm", 0))]
            self._second = f"  second {logs['watch/second']:.0%}"
        if results := evaluation_words(logs):
            self._say(f"step {state.global_step}, {results}")
        self._words = step_words(logs) or self._words
        self._move(state.global_step)

    def _move(self, step: int) -> None:
        self.step = step
        self._phase.advance(step, self._steps, self._alarm + self._words + self._second)
