"""Where a run or a study shows how far it is: a terminal, a notebook, a test."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from transformers import TrainerCallback

Advance = Callable[[int, int], None]


class Screen(Protocol):
    """Where a run shows how far it is."""

    def say(self, line: str) -> None:
        """One line of news."""
        ...

    def stage(self, title: str) -> AbstractContextManager[Advance]:
        """A phase with a bar; its function takes what is done and the whole."""
        ...

    def training(self, steps: int) -> AbstractContextManager[TrainerCallback]:
        """The phase of training, followed by its callback."""
        ...


class StudyScreen(Protocol):
    """Where a study shows how far it is."""

    def say(self, line: str) -> None:
        """One line of news."""
        ...

    def stage(self, title: str) -> AbstractContextManager[Advance]:
        """A phase with a bar, as of a run."""
        ...

    def cell(self, title: str, left: float | None) -> AbstractContextManager[Advance]:
        """One run of the study; `left` are the seconds to the end of the study, if they can be told."""
        ...
