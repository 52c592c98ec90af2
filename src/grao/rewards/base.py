"""The reward protocol: R(o, y), how much better than the reference each completion is.

A source that compares two texts, such as a pairwise judge, returns R(o, y) directly: it has a `name` and a method
`relative(batch)`. A source that scores single texts derives from `ScoredReward` and implements
`scores(prompts, answers, columns)`.
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
"""{column name: N values, one for each of N answers}."""
Relative = Callable[[Tensor, Tensor], Tensor]
"""(B, G) scores of completions, (B, 1) scores of references -> (B, G) R(o, y)."""
_LARGEST = 1e15
"""Larger rewards are refused: sums of their squares would overflow float32."""
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class RewardBatch:
    """B groups to be rewarded."""

    prompts: Sequence[Prompt]
    """B prompts."""
    completions: Sequence[Sequence[str]]
    """B groups of G answers."""
    references: Sequence[str]
    """B texts that completions are compared with."""
    columns: Sequence[Mapping[str, Any]]
    """B mappings, the other columns of each prompt's row."""
    completion_ids: Sequence[Sequence[Sequence[int]]]
    """B groups of G token sequences, for rewards that count tokens."""
    reference_ids: Sequence[Sequence[int]]
    """B token sequences."""
    data_references: Sequence[str] | None = None
    """B texts that functions and rules get as `reference`, if `references` are another model's answers; by default
    `references`."""


@runtime_checkable
class Reward(Protocol):
    """A source of rewards."""

    @property
    def name(self) -> str:
        """Short name for logs."""

    def relative(self, batch: RewardBatch) -> Tensor:
        """Return R(o, y), (B, G) float64: above 0 if the completion beats the reference, NaN if missing; R(y, y) is 0.

        Raises:
            InputError: if the user's reward is broken.
            RewardUnavailableError: if the reward is temporarily unavailable (a judge is down).
        """


@runtime_checkable
class EarlyReward(Protocol):
    """A reward that can start while other groups of the batch are still sampled, such as one that asks a server."""

    def begin(self, batch: RewardBatch) -> None:
        """Start on groups that will be part of the next `relative`, and return immediately.

        This changes no result. Errors are raised by `relative`.
        """


@runtime_checkable
class CountedReward(Protocol):
    """A reward that asks a judge and counts its requests."""

    def tally(self) -> Mapping[str, Tensor | float]:
        """Return {name: count of the last `relative`}; tensors are averaged over non-NaN entries, numbers summed."""


@dataclass(frozen=True)
class Scored:
    """Scores r(x) of B groups, float64, NaN = missing; ties are exactly equal."""

    completions: Tensor
    """(B, G), r(o)."""
    references: Tensor
    """(B,), r(y)."""


class ScoredReward(ABC):
    """A reward computed from scores r(x) of single answers.

    Args:
        name: for logs.
        relative: computes R(o, y) from the scores of completions and references.
    """

    reserved: frozenset[str] = frozenset({"reference", "completion_ids"})
    """Names that `scores` gets beside the columns of the data; no column may have such a name."""
    precision: torch.dtype = torch.float32
    """Precision of the scores; smaller differences are ties (docs/method.md). Set float64 in a scorer that computes in
    float64 throughout."""

    def __init__(self, name: str, relative: Relative) -> None:
        self.name, self.compare = name, relative
        self.last: Scored | None = None
        """The scores of the last `relative`."""

    @abstractmethod
    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str], columns: Columns) -> Tensor:
        """Return r(x) of N answers.

        Args:
            prompts: N prompts.
            answers: N answers, completions and references alike.
            columns: the columns of the data, None where a row lacks one; `reference`; and `completion_ids`, the tokens
                of each answer.

        Returns:
            (N,) float64, NaN = missing.
        """

    def check_columns(self, names: Iterable[str]) -> None:
        """Check that no column of the data has a reserved name.

        Raises:
            InputError: if one does.
        """
        if taken := sorted(self.reserved.intersection(names)):
            raise InputError(
                f"reward {self.name}: the data have a column {taken[0]!r}, but the reward gets an argument of that "
                f"name; rename the column with data.columns: {{{taken[0]}: data_{taken[0]}}}"
            )

    def scored(self, batch: RewardBatch) -> Scored:
        """Return r(o) and r(y) of every group, scored in one call of `scores`."""
        width = len(batch.completions[0]) + 1
        self.check_columns(name for row in batch.columns for name in row)
        reference_texts = batch.data_references or batch.references
        rows = [{"reference": y, **row} for y, row in zip(reference_texts, batch.columns, strict=True)]
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
        scores = _with_reference(self.scored(batch))
        scores = merge_ties(scores, rounding(scores, self.precision))
        self.last = Scored(scores[:, :-1], scores[:, -1])
        return self.compare(self.last.completions, self.last.references[:, None])


def ask(reward: Reward, batch: RewardBatch) -> Tensor:
    """Return R(o, y) of any reward, (B, G), with ties exactly equal. Every comparison of rewards goes through this.

    Args:
        reward: any source.
        batch: B groups of G completions.

    Raises:
        InputError: as `Reward.relative` and `with_exact_ties`.
        RewardUnavailableError: as `Reward.relative`.
    """
    rewards = reward.relative(batch)
    return with_exact_ties(rewards, moved_by_rounding(reward, rewards), f"reward {reward.name}")


def moved_by_rounding(reward: Reward, rewards: Tensor) -> Tensor:
    """Return bounds on the rounding error of each R of the last `relative`, and of R(y, y).

    If R is a difference of scores, the bound follows from their size. A reward that returns R itself has no known
    scale; only the rounding of float64 numbers near 1 is allowed for.

    Args:
        reward: the source.
        rewards: (B, G), what its last `relative` returned.

    Returns:
        (B, G + 1), the reference last.
    """
    if isinstance(reward, ScoredReward) and reward.last and reward.compare is difference:
        return rounding(_with_reference(reward.last), reward.precision)
    near_one = rounding(torch.ones_like(rewards[:, :1]), torch.float64)
    return torch.cat([rounding(rewards), near_one], dim=1)


def with_exact_ties(rewards: Tensor, moved: Tensor, whose: str) -> Tensor:
    """Return R(o, y), (B, G), with ties exactly equal and ties with the reference exactly 0.

    Args:
        rewards: (B, G), NaN = missing.
        moved: (B, G + 1), bounds of the rounding error of each, and of the reference's 0.
        whose: source of the rewards, for the error message.

    Raises:
        InputError: if a reward, or its bound, is too large to learn from.
    """
    sizes = (rewards.abs() + moved[:, :-1]).nan_to_num(0.0, posinf=math.inf)
    if (size := max(sizes.flatten().tolist(), default=0.0)) > _LARGEST:
        raise InputError(f"{whose}: R = {size:.3g} is too large to learn from (maximum {_LARGEST:g}); scale it down")
    return merge_ties(torch.cat([rewards, torch.zeros_like(rewards[:, :1])], dim=1), moved)[:, :-1]


def _with_reference(scored: Scored) -> Tensor:
    """Return all scores, (B, G + 1), the reference last; infinite scores become NaN (missing)."""
    scores = torch.cat([scored.completions, scored.references[:, None]], dim=1).double()
    return scores.where(scores.isfinite(), torch.nan)


def difference(completions: Tensor, references: Tensor) -> Tensor:
    """Return R(o, y) = r(o) - r(y).

    Args:
        completions: (B, G), scores r(o).
        references: (B, 1), scores r(y).

    Returns:
        (B, G).
    """
    return completions - references


def sign_relative(tie_band: float = 0.0) -> Relative:
    """Return the comparison R(o, y) = sign(r(o) - r(y)) in {1, 0, -1}; differences up to `tie_band` are ties."""

    def compare(completions: Tensor, references: Tensor) -> Tensor:
        gap = completions - references
        edge = rounding(torch.maximum(completions.abs(), references.abs())) if tie_band else 0.0
        return gap.sign().masked_fill(gap.abs() <= tie_band + edge, 0.0)

    return compare


def relative_of(section: RewardConfig) -> Relative:
    """Return the comparison of scores that a section of the recipe asks for."""
    return sign_relative(section.tie_band) if section.relative == "sign" else difference


def start_awaitable(awaitable: Awaitable[_Result]) -> Future[_Result]:
    """Start an awaitable on the event loop shared by all rewards, in a background thread; return its future."""

    async def wait() -> _Result:
        try:
            return await awaitable
        except SystemExit as error:  # would stop the loop
            raise RuntimeError(f"sys.exit({error.code})") from error

    return asyncio.run_coroutine_threadsafe(wait(), _event_loop(os.getpid()))


def result_of(future: Future[_Result]) -> _Result:
    """Wait for a result, even inside a running event loop (a notebook). Ctrl-C cancels the task."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


@cache
def _event_loop(process: int) -> asyncio.AbstractEventLoop:
    """Return the event loop that all calls share: semaphores and clients are bound to the loop they started in.

    A forked process has none of its parent's threads, so each process has a loop of its own.
    """
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="grao-rewards", daemon=True).start()
    return loop
