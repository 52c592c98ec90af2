"""The data types of a training step, from a row of the dataset to the batch that the model sees.

    Example -> Encoded -> Group of Answers -> rewards -> weights -> Batch

One prompt and its answers stay together as a group throughout. This module does not import torch, so that commands can
read the settings of methods without it.
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
"""One chat message: `role` and `content`, both text, and optional keys for chat templates, such as `tool_calls`."""

Prompt = str | Sequence[Message]
"""Plain text or chat messages."""


class Role(IntEnum):
    """Where an answer comes from."""

    SAMPLE = 0
    """Sampled from the policy."""
    REFERENCE = 1
    """The reference answer of the data."""
    REJECTED = 2
    """The worse answer of a pair in the data."""


@dataclass(frozen=True)
class Example:
    """One row of the dataset."""

    prompt: Prompt
    reference: str
    """The answer to imitate and to beat, including any leading space."""
    rejected: str | None
    """A worse answer, if the dataset has one."""
    columns: Mapping[str, Any]
    """All other columns of the row, passed to the rewards unchanged."""
    row: int
    """Line (JSON lines, CSV) or row in the source, counted from 1."""
    source: str = field(default="the data set", compare=False)
    """File, hub id or `the data set`, as messages name it."""

    @property
    def at(self) -> str:
        """Source and row, as messages name the example."""
        return f"{self.source}, row {self.row}"

    @cached_property
    def id(self) -> str:
        """First 16 hex digits of the prompt's SHA-256: the same in every run, independent of the answers."""
        return hashlib.sha256(canonical(self.prompt)).hexdigest()[:16]


@dataclass(frozen=True)
class Encoded:
    """An example after templating and tokenisation."""

    example: Example
    prompt_text: str
    """The prompt after chat template and truncation."""
    prompt_ids: tuple[int, ...]
    reference_text: str
    """The reference as it continues `prompt_text`, with any leading space, as `decode_completion` would return it."""
    reference_ids: tuple[int, ...]
    """At least one token, then the end token."""
    rejected_ids: tuple[int, ...] = ()
    """Like `reference_ids`; empty if there is no rejected answer or the method does not use it."""


@dataclass(frozen=True)
class Answer:
    """One answer to a prompt."""

    ids: tuple[int, ...]
    """At least one token. The last is the end token unless the answer is truncated."""
    role: Role = Role.SAMPLE
    text: str = ""
    """Decoded text, without the end token."""
    truncated: bool = False
    """Whether a sample reached `max_new_tokens` before its end token."""
    logps: tuple[float, ...] | None = field(default=None, compare=False)
    """Log-probability of each token under the sampling engine at temperature 1, if the engine reports it; else None."""
    weight: float = 0.0
    """Factor of J(answer), or of the answer's loss if the method defines one. Weight 0 needs no forward pass."""
    signal: float = 0.0
    """Number for the method's own loss: an advantage, a verdict or a reward. Unused by weighted likelihoods."""


@dataclass(frozen=True)
class Group:
    """One prompt and its answers."""

    item: Encoded
    answers: tuple[Answer, ...]
    number: int = 0
    """Index of the group within the update; parts of a split group share it."""

    @staticmethod
    def of(item: Encoded, samples: Sequence[Answer]) -> Group:
        """Build a group: the G samples, then the reference, then the rejected answer if there is one."""
        fixed = [Answer(item.reference_ids, Role.REFERENCE, item.reference_text)]
        if item.rejected_ids:
            fixed.append(Answer(item.rejected_ids, Role.REJECTED, item.example.rejected or ""))
        return Group(item, (*samples, *fixed))

    @property
    def samples(self) -> tuple[Answer, ...]:
        """The sampled answers."""
        return tuple(answer for answer in self.answers if answer.role is Role.SAMPLE)

    @property
    def texts(self) -> list[str]:
        """Texts of the samples."""
        return [answer.text for answer in self.samples]

    def tokens(self, role: Role) -> list[int]:
        """Token counts of the answers with this role."""
        return [len(answer.ids) for answer in self.answers if answer.role is role]


@dataclass(frozen=True)
class PerAnswer:
    """One number per answer of B groups, by role."""

    samples: Tensor
    """(B, G)."""
    reference: Tensor
    """(B,)."""
    rejected: Tensor
    """(B,)."""

    @staticmethod
    def of(samples: Tensor, reference: Tensor | float = 0.0, rejected: Tensor | float = 0.0) -> PerAnswer:
        """Build from tensors; reference and rejected may also be one number for all groups. NaN becomes 0.

        Args:
            samples: (B, G).
            reference: (B,) or a number.
            rejected: (B,) or a number.

        Returns:
            The numbers, all of the samples' dtype.
        """
        others = (samples.new_zeros(len(samples)) + value for value in (reference, rejected))
        return PerAnswer(samples.nan_to_num(0.0), *(other.to(samples.dtype).nan_to_num(0.0) for other in others))

    def rows(self) -> Iterator[list[float]]:
        """Yield the numbers of each group in the order of `Group.of`: samples, reference, rejected answer."""
        columns = self.samples.tolist(), self.reference.tolist(), self.rejected.tolist()
        for samples, reference, rejected in zip(*columns, strict=True):
            yield [*samples, reference, rejected]


@dataclass(frozen=True)
class Batch:
    """Groups that are trained on together, restricted to the answers with nonzero weight.

    The S answers are numbered group by group. `select` returns the batch of some of them.
    """

    groups: tuple[Group, ...]

    @cached_property
    def answers(self) -> list[Answer]:
        """All S answers."""
        return [answer for group in self.groups for answer in group.answers]

    @cached_property
    def owners(self) -> list[Group]:
        """The group of each of the S answers."""
        return [group for group in self.groups for _ in group.answers]

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each of the S answers."""
        return [len(answer.ids) for answer in self.answers]

    @cached_property
    def prompt_lengths(self) -> list[int]:
        """Prompt tokens of each of the S answers."""
        return [len(group.item.prompt_ids) for group in self.owners]

    @cached_property
    def numbers(self) -> list[int]:
        """Group index of each of the S answers."""
        return [group.number for group in self.owners]

    @cached_property
    def weights(self) -> list[float]:
        """Weight of each of the S answers."""
        return [answer.weight for answer in self.answers]

    def select(self, indices: Sequence[int]) -> Batch:
        """Return the batch of the answers `indices`, in this order. Adjacent answers of one group stay in one group."""
        parts = [list(part) for _, part in groupby(indices, key=lambda index: self.owners[index].number)]
        chosen = (replace(self.owners[part[0]], answers=tuple(self.answers[row] for row in part)) for part in parts)
        return Batch(tuple(chosen))


def canonical(value: Any) -> bytes:
    """Return the canonical JSON encoding of a value, for digests."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
