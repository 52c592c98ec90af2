"""The records of a run folder.

manifest.json    what the run was told, on what it ran, and how it ended
metrics.jsonl    one line a training step, appended as it happens, and one an evaluation while training
items.jsonl      every held-out prompt with all answers and verdicts
evaluation.json  the headline numbers, recomputable from items.jsonl
"""

import json
import math
import subprocess
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import field
from datetime import UTC, datetime
from enum import IntEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass

from grao.errors import InputError
from grao.records.files import Record, append_line, replace_text
from grao.records.numbers import Checks, Estimate, Rank

Settings = Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})]
"""A recipe as a tree of sections; null reads as empty."""


class _Facts(BaseModel):
    """Keys may be missing or unknown; both survive reading and writing."""

    model_config = ConfigDict(frozen=True, extra="allow", coerce_numbers_to_str=True)


class DataFacts(_Facts):
    """The examples of a run."""

    prompts: int = 0
    """For training."""
    held_out: int = 0
    left_out: dict[str, int] = {}
    """Reason -> examples that are neither trained on nor held out."""
    fingerprint: str = ""
    """Of prompts and references, `grao.data.load.fingerprint`."""


class WeightCounts(_Facts):
    """Parameters of the policy."""

    all: int = 0
    trained: int = 0


class Stretch(_Facts):
    """A run as it was before it was given another number of steps."""

    steps: int | None = None
    """In all, then."""
    finished: str | None = None


class Manifest(_Facts):
    """`manifest.json`. To change some of it: `manifest.model_copy(update={...})`."""

    status: str | None = None
    """`running`, `finished`, `interrupted` or `failed`."""
    started: str | None = None
    """ISO time in UTC, as `finished`."""
    finished: str | None = None
    command: str | list[str] | None = None
    """That repeats the run."""
    config: Settings = {}
    """The recipe."""
    seed: int | None = None
    steps: int | None = None
    """That the run was to take."""
    stages: list[str] = []
    """Methods that it learned by one after another; empty of a single one."""
    data: DataFacts = DataFacts()
    weights: WeightCounts = WeightCounts()
    stops: list[int] = []
    """Tokens that end an answer."""
    hardware: str | None = None
    """`2 x NVIDIA H100 80GB HBM3`, or `CPU`."""
    decisive: Settings = {}
    """Dotted field -> value, or a digest of the file that it names: what must not change before a resume."""
    versions: dict[str, str] = {}
    git: Any = None
    """Revision of the checkout, None outside of one."""
    earlier: list[Stretch] = []
    """What the run was each time before it was given another number of steps."""
    saved: int | None = None
    """Step whose weights the result has."""
    evaluated: str | None = None
    """When the finished run was evaluated again."""
    run: str | None = None
    """The evaluated run, if it lies in another folder."""

    @property
    def complete(self) -> bool:
        """Whether the run came to its end."""
        return self.finished is not None if self.status is None else self.status == "finished"

    @property
    def seconds(self) -> float | None:
        """From start to end; None unless both are recorded as ISO times."""
        with suppress(ValueError, TypeError):
            begin, end = (datetime.fromisoformat(time or "") for time in (self.started, self.finished))
            return (end - begin).total_seconds()
        return None

    def setting(self, section: str, name: str) -> Any:
        """One value of the recipe, None if it is not recorded."""
        values = self.config.get(section)
        return values.get(name) if isinstance(values, Mapping) else None


_MANIFEST = Record("manifest.json", Manifest, remedy="delete the file to report without it")
read_manifest, write_manifest = _MANIFEST.read, _MANIFEST.write


def update_manifest(folder: Path, **values: Any) -> None:
    """Sets some fields of the manifest in a folder."""
    write_manifest(folder, (read_manifest(folder) or Manifest()).model_copy(update=values))


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def installed_versions(*more: str) -> dict[str, str]:
    """Versions of the packages that decide a result, and of the packages named; those not installed are left out."""
    versions = {}
    for name in ("grao", "torch", "transformers", "accelerate", "datasets", "peft", "numpy", *more):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def git_revision(folder: Path | None = None) -> str | None:
    """Revision of the checkout around `folder` (the working directory), with `-dirty` if it has changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip() or None
    return None


Step = dict[str, float]
"""Name -> value; `step` counts optimiser steps from 1. Names with a slash belong together: `terms/imitation`."""


class Alarm(IntEnum):
    """Value of `watch/alarm`: what a second reward that only looks on has seen so far."""

    NONE = 0
    WIDENING = 1
    """The gap between the two rewards has grown."""
    HACKED = 2
    """The second reward has fallen while the first has not."""


class MetricsLog:
    """Appends steps to `metrics.jsonl`, each at once, so that nothing is lost when a run is killed.

    Args:
        folder: the run folder; it is made with the first line.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"

    def append(self, step: Mapping[str, float]) -> None:
        """Writes one line; values that are not finite become null."""
        clean = {name: value if math.isfinite(value) else None for name, value in step.items()}
        append_line(self.path, json.dumps(clean))

    def keep_until(self, step: int) -> float:
        """Drops the lines after `step`, which a resumed run repeats; returns the seconds spent until then."""
        kept = [line for line in _steps(self.path.parent, mend=True) if line.get("step", math.inf) <= step]
        if self.path.exists():
            replace_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        return kept[-1].get("seconds", 0.0) if kept else 0.0


_METRICS = Record("metrics.jsonl", dict[str, float | None], remedy="delete the line")


def read_metrics(folder: Path) -> list[Step]:
    """All training lines in order, without the values that are missing; a half-written last line is left out.

    Raises:
        InputError: naming file and line, if any other line cannot be read.
    """
    return [line for line in _steps(folder) if not _evaluated(line)]


def read_evaluations(folder: Path) -> list[Step]:
    """What `eval_strategy` measured on the held-out prompts while training: `eval/reward`, `eval/win` and the like.

    Raises:
        InputError: as `read_metrics`.
    """
    return [line for line in _steps(folder) if _evaluated(line)]


def _evaluated(line: Step) -> bool:
    return any(name.startswith("eval/") for name in line)


def _steps(folder: Path, mend: bool = False) -> list[Step]:
    """All lines without the values that are missing; with `mend`, those that cannot be read are left out and named."""
    lines, steps = _METRICS.lines(folder), []
    for text, where in lines:
        try:
            step = _METRICS.parse(text, where)
        except InputError as error:
            if (text, where) == lines[-1]:
                break  # half-written
            if not mend:
                raise
            warnings.warn(f"{error}: it is left out", stacklevel=3)
            continue
        steps.append({name: x for name, x in step.items() if x is not None and math.isfinite(x)})
    return steps


@dataclass(frozen=True)
class Scores:
    """One model against the references."""

    ras: Estimate
    """Relative adversarial score: share of strict wins over the reference."""
    ras_win_or_tie: Estimate
    ras_half_tie: Estimate
    """Wins + half of the ties."""
    missing: int
    """Prompts without a verdict; they are in no estimate."""
    mean_reward: float | None
    """Mean of R(o, y)."""
    mean_tokens: float
    truncated: float
    """Share of answers cut at the token limit."""
    net: Estimate | None = None
    """(wins - losses) / N against the references."""
    p: float | None = None
    """That the answers are as good as the references: exact, two-sided, not corrected for other comparisons."""
    detectable: float | None = None
    """As in `Gain`, of the net share."""
    length_controlled: Estimate | None = None
    """Wins and half of the ties, had the answers been as long as the references; None where it cannot be told."""
    by_reward: dict[str, Estimate] = field(default_factory=dict)
    """Wins and half of the ties by each reward, where several make the sum; one that says nothing is left out."""
    corrected: Estimate | None = None
    """Wins and half of the ties, less what the judge's known errors add."""
    repetition: float | None = None
    """Share of runs of three words that stood in the same answer before, a mean over answers."""
    kl: Estimate | None = None
    """Mean over answers of log pi(o) - log pi_start(o) in nats, at temperature 1."""


@dataclass(frozen=True)
class Gain:
    """One model against another on the same prompts."""

    model: str
    baseline: str
    nag: Estimate
    """Normalised alignment gain, net: (wins - losses) / N."""
    nag_win: Estimate
    """The paper's formula as printed: wins / N."""
    relative_ras: Estimate | None
    """RAS(model) / RAS(baseline) - 1; None where the baseline never wins."""
    missing: int = 0
    p: float | None = None
    """That wins and losses are as likely: exact, two-sided, not corrected for other comparisons."""
    detectable: float | None = None
    """The least net gain that so many prompts show in four of five evaluations, at the level of the intervals."""


@dataclass(frozen=True)
class Doubt:
    """What speaks against believing the headline."""

    kind: str
    """Short and stable, such as `judge-contradicts-itself`."""
    words: str
    """One or two sentences for the reader."""


@dataclass(frozen=True)
class Evaluation:
    """The headline numbers of a run, or of several models on the same prompts."""

    confidence: float
    prompts: int
    models: dict[str, Scores]
    """By name, in the order of evaluation: `before`, `after`."""
    gains: list[Gain] = field(default_factory=list)
    """Every later model against every earlier one."""
    corrected: dict[str, float] = field(default_factory=dict)
    """p-values for all comparisons at once (Holm), by model (against the references) and by `model|baseline`."""
    judges: list[str] = field(default_factory=list)
    """Who judged, in words."""
    doubts: list[Doubt] = field(default_factory=list)
    ranking: list[Rank] = field(default_factory=list)
    """Of the models and `reference`, where there are at least two models."""
    checks: Checks | None = None


LONGEST_REPLY = 2000
"""Characters of what a judge said that are kept."""


@dataclass(frozen=True)
class Order:
    """One reading of a pair by a judge."""

    first: Literal["answer", "reference"]
    """Whose text came first."""
    value: float | None
    """Above 0: the answer is better; None: unreadable."""
    text: str
    """What the judge said, at most `LONGEST_REPLY` characters."""


@dataclass(frozen=True)
class Said:
    """What one reward said of an answer against its reference."""

    reward: str
    """Its name."""
    value: float | None
    """R(o, y)."""
    orders: list[Order] = field(default_factory=list)
    """Of a judge; empty otherwise."""


@dataclass(frozen=True)
class RecordedAnswer:
    """What one model said to one prompt."""

    text: str
    tokens: int
    truncated: bool
    reward: float | None
    """R(o, y) against the reference: above 0 wins, 0 ties, below 0 loses, None is missing."""
    token_ids: list[int]
    """As sampled, the end token included."""
    said: list[Said] = field(default_factory=list)
    """By each reward."""
    kl: float | None = None
    """log pi(o) - log pi_start(o), in nats."""


@dataclass(frozen=True)
class Prompted:
    """A prompt of the data with its reference answer."""

    id: str
    """Of the prompt."""
    prompt: str
    reference: str


@dataclass(frozen=True)
class Item(Prompted):
    """One held-out prompt."""

    answers: dict[str, RecordedAnswer]
    """By model name."""
    comparisons: dict[str, float | None] = field(default_factory=dict)
    """`after|before` -> R of the first against the second."""


_AGAIN = "evaluate the run again"
_EVALUATION, _ITEMS = (Record("evaluation.json", Evaluation, remedy=_AGAIN), Record("items.jsonl", Item, remedy=_AGAIN))
read_evaluation, read_items = _EVALUATION.read, _ITEMS.read_lines


def write_evaluation(folder: Path, evaluation: Evaluation, items: Iterable[Item]) -> None:
    """Writes `items.jsonl`, then `evaluation.json`."""
    _ITEMS.write_lines(folder, items)
    _EVALUATION.write(folder, evaluation)
