"""What every reward does: R(o, y), how much better than the reference each completion is.

A source that compares says it directly: an object with a `name` and `relative(batch)`, such as a pairwise judge. A
source that scores single texts derives from `ScoredReward` and implements `scores(prompts, answers, columns)`.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from threading import Thread
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from grao.config.rewards import RewardConfig
from grao.types import Prompt

Columns = Mapping[str, Sequence[Any]]
"""Column name -> N values, one for each of N answers."""
Relative = Callable[[Tensor, Tensor], Tensor]
"""(B, G) scores of completions, (B, 1) scores of references -> (B, G) R(o, y)."""
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class RewardBatch:
    """B groups to be judged."""

    prompts: Sequence[Prompt]
    """B."""
    completions: Sequence[Sequence[str]]
    """B groups of G answers."""
    references: Sequence[str]
    """B."""
    columns: Sequence[Mapping[str, Any]]
    """B, the further columns of each prompt's row."""
    completion_ids: Sequence[Sequence[Sequence[int]]]
    """B groups of G token sequences, for rewards that count tokens."""
    reference_ids: Sequence[Sequence[int]]
    """B token sequences."""


@runtime_checkable
class Reward(Protocol):
    """A source of rewards."""

    @property
    def name(self) -> str:
        """Short name for logs."""

    def relative(self, batch: RewardBatch) -> Tensor:
        """R(o, y), (B, G) float64: above 0 the completion beats the reference, NaN is missing. R(y, y) is 0.

        Raises:
            InputError: if the user's reward is broken.
            RewardUnavailableError: if it cannot be had at the moment (a judge that is down).
        """


@runtime_checkable
class Early(Protocol):
    """A reward that can work while other groups of the batch are still being sampled: one that waits for a server."""

    def begin(self, batch: RewardBatch) -> None:
        """Starts on groups that will be part of the next `relative`, and returns at once.

        Changes no result. Errors are raised by `relative`.
        """


@runtime_checkable
class Counted(Protocol):
    """A reward that asks a judge, and counts what that took."""

    def tally(self) -> Mapping[str, Tensor | float]:
        """Of the last `relative`, by name: tensors are averaged over what is not NaN, numbers summed over processes."""


@dataclass(frozen=True)
class Scored:
    """Scores r(x) of B groups, float64, NaN = missing."""

    completions: Tensor
    """(B, G)."""
    references: Tensor
    """(B,)."""


class ScoredReward(ABC):
    """A reward from scores r(x) of single answers, made relative to the reference.

    Args:
        name: for logs.
        relative: how two scores become R(o, y).
    """

    def __init__(self, name: str, relative: Relative) -> None:
        self.name, self._compare = name, relative
        self.last: Scored | None = None
        """What the last `relative` compared."""

    @abstractmethod
    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns) -> Tensor:
        """r(x) of N answers.

        Args:
            prompts: N.
            answers: N, completions and references alike.
            columns: those of the data, None where a row lacks one; `reference`, unless the data have a column of that
                name; and `completion_ids`, the tokens of each answer.

        Returns:
            (N,) float64, NaN = missing.
        """

    def scored(self, batch: RewardBatch) -> Scored:
        """r(o) and r(y) of every group, scored in one call."""
        width = len(batch.completions[0]) + 1
        rows = [{"reference": y, **row} for y, row in zip(batch.references, batch.columns, strict=True)]
        names = dict.fromkeys(name for row in rows for name in row)
        columns: dict[str, Any] = {name: [row.get(name) for row in rows for _ in range(width)] for name in names}
        ids = zip(batch.completion_ids, batch.reference_ids, strict=True)
        columns["completion_ids"] = [list(answer) for group, y in ids for answer in (*group, y)]
        texts = zip(batch.completions, batch.references, strict=True)
        answers = [answer for group, y in texts for answer in (*group, y)]
        scores = self.scores([prompt for prompt in batch.prompts for _ in range(width)], answers, columns)
        scores = scores.view(-1, width)
        return Scored(scores[:, :-1], scores[:, -1])

    def relative(self, batch: RewardBatch) -> Tensor:
        """See `Reward.relative`."""
        self.last = self.scored(batch)
        return self._compare(self.last.completions, self.last.references[:, None])


def difference(completions: Tensor, references: Tensor) -> Tensor:
    """R(o, y) = r(o) - r(y)."""
    return completions - references


def sign_relative(tie_band: float = 0.0) -> Relative:
    """R(o, y) = sign(r(o) - r(y)) in {1, 0, -1}; differences up to `tie_band` are ties."""

    def compare(completions: Tensor, references: Tensor) -> Tensor:
        gap = completions - references
        return gap.sign().masked_fill(gap.abs() <= tie_band, 0.0)

    return compare


def relative_of(section: RewardConfig) -> Relative:
    """How a section wants two scores to become R(o, y)."""
    return sign_relative(section.tie_band) if section.relative == "sign" else difference


def start_awaitable(awaitable: Awaitable[_Result]) -> Future[_Result]:
    """Runs it on the event loop of all rewards, beside the caller."""

    async def wait() -> _Result:
        return await awaitable

    return asyncio.run_coroutine_threadsafe(wait(), _event_loop())


def result_of(future: Future[_Result]) -> _Result:
    """Waits for what was started, also from inside a running event loop (a notebook). Ctrl-C cancels it."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """The one loop of all calls: the semaphores and clients that a reward keeps are bound to the loop they began in."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="grao-rewards", daemon=True).start()
    return loop
