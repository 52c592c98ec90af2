"""The records of a run folder.

manifest.json    settings, environment and status of the run
metrics.jsonl    one line per training step and per evaluation during training, appended immediately
items.jsonl      every held-out prompt with all answers and verdicts
evaluation.json  the headline numbers, which can be recomputed from items.jsonl
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
"""A recipe as a tree of sections; null is read as empty."""


class _Facts(BaseModel):
    """Base of records in which keys may be missing or unknown; unknown keys are kept when a record is written again."""

    model_config = ConfigDict(frozen=True, extra="allow", coerce_numbers_to_str=True)


class DataFacts(_Facts):
    """Data of a run."""

    prompts: int = 0
    """Number of training prompts."""
    held_out: int = 0
    """Number of held-out prompts."""
    left_out: dict[str, int] = {}
    """Reason -> examples that are neither trained on nor held out."""
    fingerprint: str = ""
    """Fingerprint of prompts and references (`grao.data.load.fingerprint`)."""


class WeightCounts(_Facts):
    """Number of parameters of the policy."""

    all: int = 0
    trained: int = 0


class EarlierEnd(_Facts):
    """State of a run before its number of steps was changed."""

    steps: int | None = None
    """Planned number of steps at that time."""
    finished: str | None = None


class Manifest(_Facts):
    """`manifest.json`. To change fields, use `manifest.model_copy(update={...})`."""

    status: str | None = None
    """`running`, `finished`, `interrupted` or `failed`."""
    started: str | None = None
    """Start time in ISO format, UTC."""
    finished: str | None = None
    """End time in the same format."""
    command: str | list[str] | None = None
    """Command that repeats the run."""
    config: Settings = {}
    """The recipe."""
    seed: int | None = None
    steps: int | None = None
    """Planned number of optimizer steps."""
    stages: list[str] = []
    """Training methods of the stages, in order; empty for a single method."""
    data: DataFacts = DataFacts()
    weights: WeightCounts = WeightCounts()
    stops: list[int] = []
    """Token ids that end an answer."""
    hardware: str | None = None
    """`2 x NVIDIA H100 80GB HBM3`, or `CPU`."""
    decisive: Settings = {}
    """Dotted field -> value, or digest of the file that it names, for settings that must not change before a resume."""
    versions: dict[str, str] = {}
    git: Any = None
    """Git revision of the working directory; None outside a repository."""
    earlier: list[EarlierEnd] = []
    """States of the run before each change of its number of steps."""
    saved: int | None = None
    """Step of the saved weights."""
    evaluated: str | None = None
    """Time of a later evaluation of the finished run."""
    run: str | None = None
    """The evaluated run, if it is in another folder."""

    @property
    def complete(self) -> bool:
        """Whether the run finished."""
        return self.finished is not None if self.status is None else self.status == "finished"

    @property
    def seconds(self) -> float | None:
        """Duration from start to end; None unless both are recorded as ISO times."""
        with suppress(ValueError, TypeError):
            begin, end = (datetime.fromisoformat(time or "") for time in (self.started, self.finished))
            return (end - begin).total_seconds()
        return None

    def setting(self, section: str, name: str) -> Any:
        """Return a value of the recipe; None if it is not recorded."""
        values = self.config.get(section)
        return values.get(name) if isinstance(values, Mapping) else None


_MANIFEST = Record("manifest.json", Manifest, remedy="delete the file to report without it")
read_manifest, write_manifest = _MANIFEST.read, _MANIFEST.write


def update_manifest(folder: Path, **values: Any) -> None:
    """Update fields of the manifest in a folder."""
    write_manifest(folder, (read_manifest(folder) or Manifest()).model_copy(update=values))


def now() -> str:
    """Current time in UTC, in ISO format to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def installed_versions(*more: str) -> dict[str, str]:
    """Return the versions of the packages that affect results, and of `more`, as far as they are installed."""
    versions = {}
    for name in ("grao", "torch", "transformers", "accelerate", "datasets", "peft", "numpy", *more):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def git_revision(folder: Path | None = None) -> str | None:
    """Return the git revision of `folder` (default: working directory), `-dirty` if changed; None without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip() or None
    return None


Step = dict[str, float]
"""Metric -> value; `step` counts optimizer steps from 1. Related names share a prefix: `terms/imitation`."""


class Alarm(IntEnum):
    """Value of `watch/alarm`: what the independent reward of a watch has shown so far."""

    NONE = 0
    WIDENING = 1
    """The gap between the two rewards has grown."""
    HACKED = 2
    """The independent reward has fallen while the training reward has not."""


class MetricsLog:
    """Appends steps to `metrics.jsonl` immediately, so that no step is lost if the run is killed.

    Args:
        folder: the run folder; it is created with the first line.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"

    def append(self, step: Mapping[str, float]) -> None:
        """Append one line; values that are not finite become null."""
        clean = {name: value if math.isfinite(value) else None for name, value in step.items()}
        append_line(self.path, json.dumps(clean))

    def keep_until(self, step: int) -> float:
        """Delete the lines after `step`, because a resumed run repeats them.

        Returns:
            Training seconds up to that step.
        """
        kept = [line for line in _steps(self.path.parent, mend=True) if line.get("step", math.inf) <= step]
        if self.path.exists():
            replace_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        return kept[-1].get("seconds", 0.0) if kept else 0.0


_METRICS = Record("metrics.jsonl", dict[str, float | None], remedy="delete the line")


def read_metrics(folder: Path) -> list[Step]:
    """Read all training steps in order, without missing values; an incomplete last line is ignored.

    Raises:
        InputError: if any other line is invalid; names the file and the line.
    """
    return [line for line in _steps(folder) if not _evaluated(line)]


def read_evaluations(folder: Path) -> list[Step]:
    """Read the evaluations on held-out prompts during training (`eval_strategy`): `eval/reward`, `eval/win`, ...

    Raises:
        InputError: if a line other than the last is invalid.
    """
    return [line for line in _steps(folder) if _evaluated(line)]


def _evaluated(line: Step) -> bool:
    return any(name.startswith("eval/") for name in line)


def _steps(folder: Path, mend: bool = False) -> list[Step]:
    """All lines without missing values; with `mend`, invalid lines are skipped with a warning."""
    lines, steps = _METRICS.lines(folder), []
    for text, where in lines:
        try:
            step = _METRICS.parse(text, where)
        except InputError as error:
            if (text, where) == lines[-1]:
                break  # incomplete, still being written
            if not mend:
                raise
            warnings.warn(f"{error}: the line is skipped", stacklevel=3)
            continue
        steps.append({name: x for name, x in step.items() if x is not None and math.isfinite(x)})
    return steps


@dataclass(frozen=True)
class Scores:
    """Comparison of a model with the references."""

    ras: Estimate
    """Relative adversarial score: share of strict wins over the reference."""
    ras_win_or_tie: Estimate
    """Share of wins and ties."""
    ras_half_tie: Estimate
    """Share of wins plus half of the ties."""
    missing: int
    """Prompts without a verdict; they are excluded from all estimates."""
    mean_reward: float | None
    """Mean of R(o, y)."""
    mean_tokens: float
    truncated: float
    """Share of answers truncated at the token limit."""
    net: Estimate | None = None
    """(wins - losses) / N against the references."""
    p: float | None = None
    """Two-sided p-value of wins and losses being equally likely, not adjusted; exact with one answer per prompt."""
    detectable: float | None = None
    """Minimum detectable net share, as in `Gain`."""
    length_controlled: Estimate | None = None
    """Length-controlled win rate (ties count half); None if it cannot be estimated."""
    by_reward: dict[str, Estimate] = field(default_factory=dict)
    """Win rate (ties count half) by each of several rewards; rewards without verdicts are excluded."""
    corrected: Estimate | None = None
    """Win rate (ties count half) corrected for the judge's error rate."""
    repetition: float | None = None
    """Share of an answer's three-word sequences that occurred in it before, mean over answers."""
    kl: Estimate | None = None
    """Mean over answers of log pi(o) - log pi_start(o) in nats, at temperature 1."""


@dataclass(frozen=True)
class Gain:
    """Comparison of two models on the same prompts."""

    model: str
    baseline: str
    nag: Estimate
    """Normalised alignment gain, net: (wins - losses) / N."""
    nag_win: Estimate
    """The paper's formula as printed: wins / N."""
    relative_ras: Estimate | None
    """RAS(model) / RAS(baseline) - 1; None if the baseline never wins."""
    missing: int = 0
    """Prompts without a verdict; they are excluded from all estimates."""
    p: float | None = None
    """Two-sided p-value of wins and losses being equally likely, not adjusted; exact with one answer per prompt."""
    detectable: float | None = None
    """Minimum detectable net gain with 80 % power, at the level of the intervals."""


@dataclass(frozen=True)
class Doubt:
    """A reason to doubt the headline."""

    kind: str
    """Short stable identifier, such as `judge-contradicts-itself`."""
    words: str
    """One or two sentences for the reader."""


@dataclass(frozen=True)
class Evaluation:
    """The headline numbers of a run, or of several models on the same prompts."""

    confidence: float
    """Nominal coverage of the intervals."""
    prompts: int
    models: dict[str, Scores]
    """Model name -> scores, in the order of evaluation: `before`, `after`."""
    gains: list[Gain] = field(default_factory=list)
    """Comparison of every model with every earlier one."""
    corrected: dict[str, float] = field(default_factory=dict)
    """Holm-adjusted p-values of all comparisons, by model (against the references) and by `model|baseline`."""
    judges: list[str] = field(default_factory=list)
    """Descriptions of the judges."""
    doubts: list[Doubt] = field(default_factory=list)
    ranking: list[Rank] = field(default_factory=list)
    """Ranking of the models and `reference`; empty for a single model."""
    checks: Checks | None = None


LONGEST_REPLY = 2000
"""Most recorded characters of a judge's reply."""


@dataclass(frozen=True)
class Order:
    """A judge's verdict on a pair of texts shown in one order."""

    first: Literal["answer", "reference"]
    """The text that was shown first."""
    value: float | None
    """Above 0: the answer is better; None: unreadable."""
    text: str
    """The judge's reply, at most `LONGEST_REPLY` characters."""


@dataclass(frozen=True)
class RewardVerdict:
    """Verdict of one reward on an answer compared with its reference."""

    reward: str
    """Name of the reward."""
    value: float | None
    """R(o, y); None = missing."""
    orders: list[Order] = field(default_factory=list)
    """A judge's verdict in each requested order; empty for other rewards."""


@dataclass(frozen=True)
class RecordedAnswer:
    """Answer of a model to a prompt."""

    text: str
    tokens: int
    truncated: bool
    reward: float | None
    """R(o, y) against the reference: above 0 wins, 0 ties, below 0 loses, None is missing."""
    token_ids: list[int]
    """As sampled, including the end token."""
    said: list[RewardVerdict] = field(default_factory=list)
    """Verdict of each reward."""
    kl: float | None = None
    """log pi(o) - log pi_start(o), in nats."""


@dataclass(frozen=True)
class PromptItem:
    """A prompt with its reference answer."""

    id: str
    """ID of the prompt."""
    prompt: str
    reference: str


@dataclass(frozen=True)
class Item(PromptItem):
    """A held-out prompt with the answers of all models."""

    answers: dict[str, RecordedAnswer]
    """Model name -> answer."""
    comparisons: dict[str, float | None] = field(default_factory=dict)
    """`after|before` -> R of the first model's answer against the second's."""


_AGAIN = "evaluate the run again"
_EVALUATION, _ITEMS = (Record("evaluation.json", Evaluation, remedy=_AGAIN), Record("items.jsonl", Item, remedy=_AGAIN))
read_evaluation, read_items = _EVALUATION.read, _ITEMS.read_lines


def write_evaluation(folder: Path, evaluation: Evaluation, items: Iterable[Item]) -> None:
    """Write `items.jsonl`, then `evaluation.json`."""
    _ITEMS.write_lines(folder, items)
    _EVALUATION.write(folder, evaluation)
