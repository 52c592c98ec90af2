"""The data that flows through a step, from a row of the data to a packed row of the model.

    Example -> Encoded -> Group of Answers -> rewards -> weights -> Batch

A group stays together on the whole way: one prompt and the answers to it, each with its role. Imports no torch, so
that the settings of methods can be read without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TokenIds = Sequence[int]

Message = Mapping[str, Any]
"""One chat message: `role` and `content`, both text, and what else chat templates read, such as `tool_calls`."""

Prompt = str | Sequence[Message]
"""Text, or chat messages."""


class Role(IntEnum):
    """What an answer is."""

    SAMPLE = 0
    REFERENCE = 1
    REJECTED = 2


@dataclass(frozen=True)
class Example:
    """One row of the data."""

    prompt: Prompt
    reference: str
    """The answer to imitate and to beat; a leading space is part of it."""
    rejected: str | None
    """A worse answer, if the data has one."""
    columns: Mapping[str, Any]
    """Every further column of the row, handed to the rewards untouched."""
    row: int
    """1-based line (JSON lines, CSV) or row in its source."""

    @cached_property
    def id(self) -> str:
        """16 hex digits of the prompt's SHA-256: the same in every run, whatever the row's answers."""
        return hashlib.sha256(canonical(self.prompt)).hexdigest()[:16]


@dataclass(frozen=True)
class Encoded:
    """An example as the model sees it."""

    example: Example
    prompt_text: str
    """After the chat template, and after truncation."""
    prompt_ids: tuple[int, ...]
    reference_text: str
    """The reference as it continues `prompt_text`, leading space included: compares with `decode_completion`."""
    reference_ids: tuple[int, ...]
    """Closed with the end token, at least one token before it."""
    rejected_ids: tuple[int, ...] = ()
    """As the reference; empty if there is none, or none is wanted."""


@dataclass(frozen=True)
class Answer:
    """One answer to a prompt."""

    ids: tuple[int, ...]
    """At least one token; the last is the end token unless the answer is truncated."""
    role: Role = Role.SAMPLE
    text: str = ""
    """Of a sample, without the token that ended it."""
    truncated: bool = False
    """True if it hit `max_new_tokens` before it ended by itself."""
    logps: tuple[float, ...] | None = field(default=None, compare=False)
    """Log-probability of each token under the model that sampled it, at temperature 1; None of what was not sampled."""
    weight: float = 0.0
    """What its mean log-likelihood, or its loss where the method has one, is multiplied with; 0 = not forwarded."""
    signal: float = 0.0
    """What a method's own loss is told of it: an advantage, a verdict or a reward. Unused by weighted likelihoods."""


@dataclass(frozen=True)
class Group:
    """One prompt with answers to it."""

    item: Encoded
    answers: tuple[Answer, ...]
    number: int = 0
    """Among the groups of an update: what the parts of a divided group have in common."""

    @staticmethod
    def of(item: Encoded, samples: Sequence[Answer]) -> Group:
        """The G samples, then the reference, then the rejected answer if the item has one."""
        given = [Answer(item.reference_ids, Role.REFERENCE, item.reference_text)]
        if item.rejected_ids:
            given.append(Answer(item.rejected_ids, Role.REJECTED, item.example.rejected or ""))
        return Group(item, (*samples, *given))

    @property
    def samples(self) -> tuple[Answer, ...]:
        """The answers that the policy gave."""
        return tuple(answer for answer in self.answers if answer.role is Role.SAMPLE)

    @property
    def texts(self) -> list[str]:
        """Of the samples."""
        return [answer.text for answer in self.samples]

    def tokens(self, role: Role) -> list[int]:
        """Lengths of the answers with this role."""
        return [len(answer.ids) for answer in self.answers if answer.role is role]


@dataclass(frozen=True)
class PerAnswer:
    """A number for every answer of B groups, by role."""

    samples: Tensor
    """(B, G)."""
    reference: Tensor
    """(B,)."""
    rejected: Tensor
    """(B,)."""

    @staticmethod
    def of(samples: Tensor, reference: Tensor | float = 0.0, rejected: Tensor | float = 0.0) -> PerAnswer:
        """Tensors from numbers where one serves for all groups; NaN becomes 0, the dtype is that of the samples."""
        others = (samples.new_zeros(len(samples)) + value for value in (reference, rejected))
        return PerAnswer(samples.nan_to_num(0.0), *(other.to(samples.dtype).nan_to_num(0.0) for other in others))

    def rows(self) -> Iterator[list[float]]:
        """Group by group, the numbers in the order of `Group.of`: samples, reference, rejected answer."""
        columns = self.samples.tolist(), self.reference.tolist(), self.rejected.tolist()
        for samples, reference, rejected in zip(*columns, strict=True):
            yield [*samples, reference, rejected]


@dataclass(frozen=True)
class Batch:
    """Groups that go through the model together, with those of their answers that count.

    Its S answers are numbered group by group; selecting some of them by number gives a batch again.
    """

    groups: tuple[Group, ...]

    @cached_property
    def answers(self) -> list[Answer]:
        """S."""
        return [answer for group in self.groups for answer in group.answers]

    @cached_property
    def owners(self) -> list[Group]:
        """S, the group of each answer."""
        return [group for group in self.groups for _ in group.answers]

    @cached_property
    def lengths(self) -> list[int]:
        """S, tokens of each answer."""
        return [len(answer.ids) for answer in self.answers]

    @cached_property
    def prompt_lengths(self) -> list[int]:
        """S, tokens of the prompt of each answer."""
        return [len(group.item.prompt_ids) for group in self.owners]

    @cached_property
    def numbers(self) -> list[int]:
        """S, which group each answer belongs to."""
        return [group.number for group in self.owners]

    @cached_property
    def weights(self) -> list[float]:
        """S, the weight of each answer."""
        return [answer.weight for answer in self.answers]

    def select(self, indices: Sequence[int]) -> Batch:
        """The answers with these numbers, in this order; neighbours of one group stay one group."""
        parts = [list(part) for _, part in groupby(indices, key=lambda index: self.owners[index].number)]
        chosen = (replace(self.owners[part[0]], answers=tuple(self.answers[row] for row in part)) for part in parts)
        return Batch(tuple(chosen))


def canonical(value: Any) -> bytes:
    """The one JSON text of a value, for digests."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
