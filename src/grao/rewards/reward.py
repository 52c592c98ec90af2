"""The one thing every reward does: R(o, y), how much better than the reference each completion is.

A pairwise judge says it directly; a function or a reward model scores both sides (`FunctionReward`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

Prompt = str | Sequence[Mapping[str, str]]
"""Text, or chat messages."""


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
        ...

    def relative(self, batch: RewardBatch) -> Tensor:
        """R(o, y), (B, G) float64: above 0 the completion beats the reference, NaN is missing. R(y, y) is 0.

        Raises:
            InputError: if the user's reward is broken.
            RewardUnavailableError: if it cannot be had at the moment (a judge that is down).
        """
        ...


@runtime_checkable
class Early(Protocol):
    """A reward that can work while other groups of the batch are still being sampled: one that waits for a server."""

    def begin(self, batch: RewardBatch) -> None:
        """Starts on groups that will be part of the next `relative`, and returns at once. Changes no result; what
        goes wrong is raised by `relative`."""
        ...


@runtime_checkable
class Counted(Protocol):
    """A reward that asks a judge, and counts what that took."""

    def tally(self) -> Mapping[str, Tensor | float]:
        """Of the last `relative`, by name: tensors are averaged over what is not NaN, numbers summed over processes."""
        ...
