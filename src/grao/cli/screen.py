"""What runs and studies look like in the terminal: a live line with bars, or plain lines where it is no terminal."""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from datasets.utils.logging import disable_progress_bar as disable_datasets_bar
from huggingface_hub.utils import logging as hub_logging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerState
from transformers.utils import logging as transformers_logging

from grao.reports.tables import duration
from grao.studies.prepare import Advance
from grao.visible import visible

_PLAIN_EVERY = 15.0
"""Seconds between two plain lines."""


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

    @contextmanager
    def stage(self, title: str) -> Iterator[Advance]:
        """A phase with a bar."""
        begin = time.perf_counter()
        with _bar(self.console, title) as advance:
            yield advance
        self.say(f"{title}: {_clock(time.perf_counter() - begin)}")

    @contextmanager
    def training(self, steps: int) -> Iterator[TrainerCallback]:
        """The phase of training: each step with its reward and wins over the reference."""
        begin = time.perf_counter()
        with _bar(self.console, "training") as advance:
            shown = _TrainingBar(advance, steps, self.say)
            yield shown
        self.say(f"training: {shown.step} steps, {_clock(time.perf_counter() - begin)}")

    @contextmanager
    def cell(self, title: str, left: float | None) -> Iterator[Advance]:
        """One run of a study, with the seconds that are `left` to the end of the study behind it."""
        words = f"study: about {duration(left)} left" if left is not None and self.console.is_terminal else ""
        with _bar(self.console, visible(title)) as advance:
            yield lambda done, total: advance(done, total, words)


@contextmanager
def terminal() -> Iterator[TerminalScreen]:
    """The screen of a command, while which the libraries are quiet."""
    with quiet_libraries():
        yield TerminalScreen(open_console())


@contextmanager
def _bar(console: Console, title: str) -> Iterator[Callable[..., None]]:
    """A bar with words behind it, or a plain line now and then where the console is no terminal.

    Args:
        console: where it is shown.
        title: what is going on.

    Returns:
        `advance(done, total, words="")`.
    """
    columns = BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn(compact=True)
    title_column, words_column = TextColumn("{task.description:<22}"), TextColumn("{task.fields[words]}")
    live = console.is_terminal
    progress = Progress(title_column, *columns, words_column, console=console, transient=True, disable=not live)
    task = progress.add_task(title, total=None, words="")
    spoken = time.perf_counter()

    def advance(done: int, total: int, words: str = "") -> None:
        nonlocal spoken
        progress.update(task, completed=done, total=total, words=words)
        silent = time.perf_counter() - spoken
        if not live and (silent > _PLAIN_EVERY or (words and done in (1, total))):
            spoken = time.perf_counter()
            console.print(f"{title} {done}/{total} {words}".rstrip(), highlight=False, soft_wrap=True)

    with progress:
        yield advance


class _TrainingBar(TrainerCallback):
    """Moves the bar of the training by the trainer's log lines, and says what is measured on held-out prompts."""

    def __init__(self, advance: Callable[..., None], steps: int, say: Callable[[str], None]) -> None:
        self._advance, self._steps, self._say = advance, steps, say
        self.step, self._last_look = 0, ""

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """A resumed run does not begin at 0."""
        self._move(state.global_step)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Moves it."""
        logs = logs or {}
        if "watch/second" in logs:
            alarm = ("", "  DRIFTING APART", "  HACKED?")[int(logs.get("watch/alarm", 0))]
            self._last_look = f"  second {logs['watch/second']:.0%}{alarm}"
        if "eval_reward" in logs:
            verdicts = f"wins {logs['eval_win']:.0%}  ties {logs['eval_tie']:.0%}"
            self._say(f"step {state.global_step}, held-out prompts: eval reward {logs['eval_reward']:+.2f}  {verdicts}")
        if "reward/mean" in logs:
            verdicts = f"wins {logs['verdict/win']:.0%}  ties {logs['verdict/tie']:.0%}"
            words = f"reward {logs['reward/mean']:+.2f}  {verdicts}  {logs['completion/tokens']:.0f} tokens"
            self._move(state.global_step, words + self._last_look)

    def _move(self, step: int, words: str = "") -> None:
        self.step = step
        self._advance(step, self._steps, words)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
