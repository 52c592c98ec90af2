"""What every reward does: R(o, y), how much better than the reference each completion is.

A source that compares says it directly: an object with a `name` and `relative(batch)`, such as a pairwise judge. A
source that scores single texts derives from `ScoredReward` and implements `scores(prompts, answers, columns)`.
"""

import asyncio
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from threading import Thread
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from grao.config.rewards import RewardConfig
from grao.core import merge_ties, rounding
from grao.errors import InputError
from grao.types import Prompt

Columns = Mapping[str, Sequence[Any]]
"""Column name -> N values, one for each of N answers."""
Relative = Callable[[Tensor, Tensor], Tensor]
"""(B, G) scores of completions, (B, 1) scores of references -> (B, G) R(o, y)."""
_LARGEST = 1e15
"""Rewards beyond it are refused: sums of their squares would not fit into float32."""
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
    told: Sequence[str] | None = None
    """B, what functions and rules know as `reference` where `references` are answers of another model."""


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
    """Scores r(x) of B groups, float64, NaN = missing; those that tie are equal."""

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

    reserved: frozenset[str] = frozenset({"reference", "completion_ids"})
    """What `scores` is given beside the columns of the data, none of which may have such a name."""
    precision: torch.dtype = torch.float32
    """What the scores are exact to; what differs by less is a tie (docs/method.md). A scorer that computes in float64
    throughout sets float64."""

    def __init__(self, name: str, relative: Relative) -> None:
        self.name, self.compare = name, relative
        self.last: Scored | None = None
        """What the last `relative` compared."""

    @abstractmethod
    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns) -> Tensor:
        """r(x) of N answers.

        Args:
            prompts: N.
            answers: N, completions and references alike.
            columns: those of the data, None where a row lacks one; `reference`; and `completion_ids`, the tokens of
                each answer.

        Returns:
            (N,) float64, NaN = missing.
        """

    def check_columns(self, names: Iterable[str]) -> None:
        """Checks that no column of the data hides what the reward is given.

        Raises:
            InputError: if one does.
        """
        if taken := sorted(self.reserved.intersection(names)):
            raise InputError(
                f"reward {self.name}: it is given {taken[0]!r}, and the data have a column of that name; "
                f"call the column otherwise with data.columns: {{{taken[0]}: data_{taken[0]}}}"
            )

    def scored(self, batch: RewardBatch) -> Scored:
        """r(o) and r(y) of every group, scored in one call."""
        width = len(batch.completions[0]) + 1
        self.check_columns(name for row in batch.columns for name in row)
        told = batch.told or batch.references
        rows = [{"reference": y, **row} for y, row in zip(told, batch.columns, strict=True)]
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
        scores = _everyone(self.scored(batch))
        scores = merge_ties(scores, rounding(scores, self.precision))
        self.last = Scored(scores[:, :-1], scores[:, -1])
        return self.compare(self.last.completions, self.last.references[:, None])


def ask(reward: Reward, batch: RewardBatch) -> Tensor:
    """R(o, y) by any reward, (B, G), ties exactly equal: what everything that compares rewards goes through.

    Raises:
        InputError, RewardUnavailableError: as `Reward.relative`; and as `settled`.
    """
    said = reward.relative(batch)
    return settled(said, moved_by_rounding(reward, said), f"reward {reward.name}")


def moved_by_rounding(reward: Reward, said: Tensor) -> Tensor:
    """How far rounding may have moved each R of the reward's last answer, and R(y, y), (B, G + 1).

    The scores tell, where R is their difference. One that says R itself has no scale: it is taken at its word, but for
    rounding of float64 numbers near 1.
    """
    if isinstance(reward, ScoredReward) and reward.last and reward.compare is difference:
        return rounding(_everyone(reward.last), reward.precision)
    near_one = rounding(torch.ones_like(said[:, :1]), torch.float64)
    return torch.cat([rounding(said), near_one], dim=1)


def settled(rewards: Tensor, moved: Tensor, whose: str) -> Tensor:
    """R(o, y), (B, G), with ties exactly equal and those with the reference exactly 0.

    Args:
        rewards: (B, G), NaN = missing.
        moved: (B, G + 1), how far rounding may have moved each, and the reference's 0.
        whose: for the message.

    Raises:
        InputError: if one is too large to learn from, or may be by rounding alone.
    """
    sizes = (rewards.abs() + moved[:, :-1]).nan_to_num(0.0, posinf=math.inf)
    if (size := max(sizes.flatten().tolist(), default=0.0)) > _LARGEST:
        raise InputError(f"{whose}: R = {size:.3g} is too large to learn from, {_LARGEST:g} is the most; scale it down")
    return merge_ties(torch.cat([rewards, torch.zeros_like(rewards[:, :1])], dim=1), moved)[:, :-1]


def _everyone(scored: Scored) -> Tensor:
    """(B, G + 1), the reference last; what is infinite is missing."""
    everyone = torch.cat([scored.completions, scored.references[:, None]], dim=1).double()
    return everyone.where(everyone.isfinite(), torch.nan)


def difference(completions: Tensor, references: Tensor) -> Tensor:
    """R(o, y) = r(o) - r(y).

    Args:
        completions: (B, G), scores r(o).
        references: (B, 1), scores r(y).

    Returns:
        (B, G).
    """
    return completions - references


def sign_relative(tie_band: float = 0.0) -> Relative:
    """R(o, y) = sign(r(o) - r(y)) in {1, 0, -1}; differences up to `tie_band`, but for rounding, are ties."""

    def compare(completions: Tensor, references: Tensor) -> Tensor:
        gap = completions - references
        edge = rounding(torch.maximum(completions.abs(), references.abs())) if tie_band else 0.0
        return gap.sign().masked_fill(gap.abs() <= tie_band + edge, 0.0)

    return compare


def relative_of(section: RewardConfig) -> Relative:
    """How a section wants two scores to become R(o, y)."""
    return sign_relative(section.tie_band) if section.relative == "sign" else difference


def start_awaitable(awaitable: Awaitable[_Result]) -> Future[_Result]:
    """Runs it on the event loop of all rewards, beside the caller."""

    async def wait() -> _Result:
        try:
            return await awaitable
        except SystemExit as error:  # it would end the loop
            raise RuntimeError(f"sys.exit({error.code})") from error

    return asyncio.run_coroutine_threadsafe(wait(), _event_loop(os.getpid()))


def result_of(future: Future[_Result]) -> _Result:
    """Waits for what was started, also from inside a running event loop (a notebook). Ctrl-C cancels it."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


@cache
def _event_loop(process: int) -> asyncio.AbstractEventLoop:
    """The one loop of all calls: the semaphores and clients that a reward keeps are bound to the loop they began in.

    A process that begins as a copy of another has none of its threads, and so takes a loop of its own.
    """
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="grao-rewards", daemon=True).start()
    return loop
