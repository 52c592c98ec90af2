"""`samples.jsonl`: completions from training, for reading while a run is in progress.

Every few steps, one group is recorded with the reward and the weight of each completion. No reported number is based on
them.
"""

import math
from dataclasses import replace
from pathlib import Path

from pydantic.dataclasses import dataclass

from grao.records.answers import cut
from grao.records.files import Record
from grao.records.run import PromptItem


@dataclass(frozen=True)
class Sample:
    """One completion."""

    text: str
    tokens: int
    truncated: bool
    reward: float | None
    """R(o, y); None = missing."""
    weight: float
    """Weight of its log-likelihood in the loss."""


@dataclass(frozen=True)
class SampledGroup(PromptItem):
    """A training prompt with its completions."""

    step: int
    """Optimizer step, counted from 1."""
    samples: list[Sample]
    """G completions."""
    reference_weight: float
    """Weight of the reference's log-likelihood in the loss."""


_SAMPLES = Record("samples.jsonl", SampledGroup, remedy="delete the line")
read_groups = _SAMPLES.read_appended


def append_group(folder: Path, group: SampledGroup) -> None:
    """Append a group; long texts are cut at the end."""
    samples = [replace(sample, text=cut(sample.text), reward=_finite(sample.reward)) for sample in group.samples]
    short = replace(group, prompt=cut(group.prompt), reference=cut(group.reference), samples=samples)
    _SAMPLES.append(folder, short)


def keep_groups_until(folder: Path, step: int) -> None:
    """Delete the groups after `step`, because a resumed run samples them again."""
    groups = read_groups(folder)
    if (folder / _SAMPLES.name).exists():  # rewrite in any case: the last line may be incomplete
        _SAMPLES.write_lines(folder, [group for group in groups if group.step <= step])


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
