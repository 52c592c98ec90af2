"""Completions of the training, to be read while it goes on: `samples.jsonl` in the run folder.

Every few steps one group, with the reward and the weight of each completion. No number of a report rests on them.
"""

import math
from dataclasses import replace
from pathlib import Path

from pydantic.dataclasses import dataclass

from grao.records.answers import cut
from grao.records.files import Record
from grao.records.run import Prompted


@dataclass(frozen=True)
class Sample:
    """One completion."""

    text: str
    tokens: int
    truncated: bool
    reward: float | None
    """R(o, y); None is missing."""
    weight: float
    """What its log-likelihood was multiplied with."""


@dataclass(frozen=True)
class SampledGroup(Prompted):
    """What the policy answered to one training prompt."""

    step: int
    """Optimiser step, from 1."""
    samples: list[Sample]
    """G of them."""
    reference_weight: float


_SAMPLES = Record("samples.jsonl", SampledGroup, remedy="delete the line")
read_groups = _SAMPLES.read_appended


def append_group(folder: Path, group: SampledGroup) -> None:
    """Adds a group; long texts lose their end."""
    samples = [replace(sample, text=cut(sample.text), reward=_finite(sample.reward)) for sample in group.samples]
    short = replace(group, prompt=cut(group.prompt), reference=cut(group.reference), samples=samples)
    _SAMPLES.append(folder, short)


def keep_groups_until(folder: Path, step: int) -> None:
    """Drops the groups after `step`, which a resumed run samples again."""
    groups = read_groups(folder)
    if (folder / _SAMPLES.name).exists():  # its last line may be torn
        _SAMPLES.write_lines(folder, [group for group in groups if group.step <= step])


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
