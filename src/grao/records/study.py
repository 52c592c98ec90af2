"""Records of a study: one record per training run, and the results in `study.json`.

Every number in `study.json` can be recomputed from the records of the runs, which are small enough for version control:
with one letter per verdict, a run over 300 prompts takes two or three kilobytes. Left out: the answers and the model.

A running study writes one file per run, `cells/NAME.json`. An archived study has all records in `cells.jsonl`, one line
per run, sorted by name (`pack_cells`). If both contain a record of the same run, the one in `cells/` counts.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from grao.errors import InputError
from grao.files import read_bytes
from grao.records.files import Record
from grao.records.numbers import Estimate, Measured, Tested

Role = Literal["select", "final"]
"""Purpose of a run: selection of the learning rate, or final evaluation."""

Letters = str
"""Verdicts, one letter per prompt: `w` the answer wins, `t` ties, `l` loses, `-` no verdict."""


@dataclass(frozen=True)
class Key:
    """Identifies a run of a study."""

    arm: str
    role: Role
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """`grao-final-lr0.0005-seed0`, also the file name of the record."""
        return f"{self.arm}-{self.role}-lr{self.learning_rate:g}-seed{self.seed}"

    @property
    def words(self) -> str:
        """The run in words: `grao, rate 0.0005, seed 0`."""
        selecting = "selection: " if self.role == "select" else ""
        return f"{selecting}{self.arm}, rate {self.learning_rate:g}, seed {self.seed}"


@dataclass(frozen=True)
class Point:
    """One evaluation during training."""

    step: int
    reward_calls: int
    """Cumulative number of training rewards."""
    seconds: float
    """Cumulative training time, without evaluations."""
    ras: float
    mean_reward: float
    work: float = 0.0
    """Cumulative counted work in seconds; 0 if work is not counted."""


@dataclass(frozen=True)
class Cost:
    """Cost of a run, or the mean cost of an arm's runs; a mean need not be a whole number."""

    steps: int | float
    reward_calls: int | float
    """Number of training rewards."""
    tokens_sampled: int | float
    tokens_trained: int | float
    seconds: dict[str, float]
    """`training` with its parts `rollout`, `reward` and `update`; `evaluation`; `total`."""
    work: float = 0.0
    """Counted work in seconds; 0 if work is not counted."""
    stages: list[int] = field(default_factory=list)
    """Last step of each stage but the final one."""


@dataclass(frozen=True)
class Outcomes:
    """Verdicts on the held-out prompts, in the same order in all fields."""

    prompts: str
    """Fingerprint of prompts and references: only runs with equal fingerprints can be paired."""
    after: Letters
    """Trained model against the references."""
    mean_reward: float
    """Mean R(o, y) of the trained model."""
    mean_tokens: float
    truncated: float
    """Share of answers truncated at the token limit."""
    before: Letters = ""
    """Model before training against the references; empty for a selection."""
    gain: Letters = ""
    """Trained model against the model before training."""
    right: Letters = ""
    """Correctness of the trained model's answers: `w` correct, `l` wrong, by the gold judge of the embedded world;
    empty elsewhere."""


@dataclass(frozen=True)
class CellRecord:
    """A run: finished with outcomes and cost, or failed with an error."""

    key: Key
    settings: dict[str, Any]
    """Dotted field -> value, for all settings that affect the result. Records with other settings are not reused."""
    started: str
    finished: str
    versions: dict[str, str]
    git: str | None
    outcomes: Outcomes | None = None
    cost: Cost | None = None
    curve: list[Point] = field(default_factory=list)
    """Evaluations from step 0, before training, to the end."""
    error: str | None = None
    """Error of a failed run, in one line."""

    def __post_init__(self) -> None:
        _check_phases([self.cost] if self.cost else [])


@dataclass(frozen=True)
class ArmResult:
    """Results of an arm over all of its finished runs."""

    arm: str
    learning_rate: float
    seeds: list[int]
    """Seeds of the finished runs."""
    before: Measured
    """RAS of the model before training, usually the same for all arms."""
    ras: Measured
    """Share of strict wins over the reference."""
    ras_win_or_tie: Measured
    nag: Measured
    """Net gain of the trained model over the model before training."""
    mean_reward: float
    mean_tokens: float
    truncated: float
    """Share of answers truncated at the token limit."""
    cost: Cost
    """Mean cost of a run."""
    calls_to_best: float | None
    """Reward calls to 95 % of the mean curve's best RAS; None without reward calls or without a curve."""
    steps_to_best: float | None
    """The same in optimizer steps."""
    falling: float | None
    """Share of evaluations below the previous one, mean over seeds; None without a curve."""
    right: Measured | None = None
    """Share of correct answers, if the runs recorded it."""


@dataclass(frozen=True)
class Comparison:
    """An arm minus another one, over the seeds that both have."""

    arm: str
    other: str
    seeds: list[int]
    difference: Measured
    """RAS of `arm` minus RAS of `other`."""
    relative_ras: float | None
    """RAS of `arm` / RAS of `other` - 1; None if the other never wins."""
    p_prompts: float
    """McNemar's exact test with one seed, sign-flip test on the prompts' mean differences with several."""
    p_prompts_corrected: float
    """Holm-adjusted for all comparisons."""
    p_seeds: float | None
    """Sign-flip test on the seeds' differences; None with a single seed."""
    p_seeds_corrected: float | None
    """Holm-adjusted for all comparisons."""
    both: Tested | None = None
    """Difference of RAS over prompts and seeds; None with a single seed."""
    win_or_tie: Tested | None = None
    """The same for win or tie, adjusted as a separate family."""


@dataclass(frozen=True)
class BandPoint:
    """One point of an arm's mean curve."""

    step: float
    reward_calls: float
    seconds: float
    """Training time, mean over seeds."""
    ras: Estimate
    """Mean over seeds with its interval over seeds."""
    work: float = 0.0
    """Counted work in seconds, mean over seeds."""


@dataclass(frozen=True)
class Band:
    """The mean curve of an arm."""

    arm: str
    points: list[BandPoint]


@dataclass(frozen=True)
class Candidate:
    """A candidate learning rate, evaluated on training prompts set aside for the selection."""

    arm: str
    learning_rate: float
    ras: float | None
    """Mean over the selection's seeds; None if a run failed."""
    mean_reward: float | None
    interval: Estimate | None = None
    """Interval of RAS over the selection's prompts and, with several seeds, over seeds."""
    chosen: float | None = None
    """Share of bootstrap resamples of the selection's prompts and seeds that choose this rate."""


@dataclass(frozen=True)
class Failure:
    """A failed run."""

    cell: str
    error: str


@dataclass(frozen=True)
class GridPosition:
    """Position of an arm in a sweep."""

    name: str
    """Name of the arm in `StudyResult.arms`."""
    arm: str
    """Name of the arm within the sweep."""
    point: list[str]
    """One label per axis."""


@dataclass(frozen=True)
class Change:
    """Change of the main arm's lead over another arm along the axis: last point minus first point."""

    other: str
    change: Estimate
    """Difference of RAS differences."""
    p_seeds: float
    """Holm-adjusted for the number of other arms."""
    over: Literal["seeds", "models"] = "seeds"
    """Units of interval and p-value: training runs of one model, or pretrained models, each a mean over seeds."""


@dataclass(frozen=True)
class BelowBest:
    """A point of a single-arm sweep compared with the best point."""

    name: str
    best: str
    ras: Tested
    """RAS minus that of the best point; adjusted for all pairs of points, because the best was chosen from the data."""


@dataclass(frozen=True)
class Sweep:
    """Results of a sweep, a study with axes; it has these instead of the comparisons in `StudyResult`."""

    axes: list[str]
    places: list[GridPosition]
    contrasts: list[Comparison]
    """The main arm compared with each other one at the same point; p-values adjusted for all of them."""
    changes: list[Change]
    """For sweeps with one axis and several seeds, and for sweeps over ability and pretrained models."""
    below: list[BelowBest] = field(default_factory=list)
    """For single-arm sweeps with several seeds: all points but the best."""

    def __post_init__(self) -> None:
        if not self.places or any(len(place.point) != len(self.axes) for place in self.places):
            raise ValueError("places must not be empty, and each needs one label per axis")
        _check_names([contrast.other for contrast in self.contrasts], [place.name for place in self.places])


@dataclass(frozen=True)
class WeightExample:
    """A group with given verdicts, and the weights of its sequences."""

    wins: int
    losses: int
    """The other samples of the group tie."""
    won: float | None
    """Weight w_i of a winning sample; None if there is none."""
    lost: float | None
    """Weight w_i of a losing sample; None if there is none."""
    reference: float
    """Weight w_y of the reference."""


@dataclass(frozen=True)
class ArmWeights:
    """Effective likelihood weights of an arm of an ablation."""

    arm: str
    kappa: float | None
    """(w_y / A_y) / (G w_i / A_i), the ratio of reference to sample weight that the coefficients of eq. 3 determine."""
    situations: list[WeightExample]
    rescaled: str | None
    """First arm whose weights equal these up to one positive factor, for every possible combination of verdicts."""


@dataclass(frozen=True)
class StudyResult:
    """All results of a study, the source of its tables, curves and sentences."""

    confidence: float
    prompts: int
    """Number of held-out prompts."""
    seeds: int
    """Planned number of seeds per arm."""
    budget: str
    """Budget of a run, such as `100 steps`."""
    main: str
    """The arm that is compared with all others."""
    arms: list[ArmResult]
    comparisons: list[Comparison]
    curves: list[Band]
    candidates: list[Candidate] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    """Arms without a finished run."""
    versions: list[dict[str, str]] = field(default_factory=list)
    """Distinct sets of library versions of the runs."""
    sweep: Sweep | None = None
    """For a study with axes."""
    weights: list[ArmWeights] = field(default_factory=list)
    """For an ablation."""
    pairs: list[Comparison] = field(default_factory=list)
    """All pairs of arms of a study without axes; p-values adjusted for the number of pairs."""
    rates: dict[str, float] = field(default_factory=dict)
    """Rates of counted work in seconds: per step, and per token sampled, forwarded or backwarded."""

    def __post_init__(self) -> None:
        _check_phases([arm.cost for arm in self.arms])
        _check_names([self.arms[0].arm if self.arms else "", *(b.arm for b in self.curves)], [a.arm for a in self.arms])


def _check_phases(costs: Sequence[Cost]) -> None:
    for cost in costs:
        if missing := {"training", "rollout", "reward", "update", "total"} - cost.seconds.keys():
            raise ValueError(f"cost.seconds lacks {min(missing)}")


def _check_names(used: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [name for name in used if name not in known]:
        raise ValueError(f"{unknown[0]!r} is not one of its arms")


_STUDY = Record("study.json", StudyResult, indent=1, remedy="run the study again; finished runs are kept")
read_study, write_study = _STUDY.read, _STUDY.write
_CELLS = Record("cells.jsonl", CellRecord)


def write_cell(folder: Path, record: CellRecord) -> None:
    """Write `cells/NAME.json` into the folder of a study, completely or not at all."""
    Record(f"cells/{record.key.name}.json", CellRecord, indent=1).write(folder, record)


def read_cells(folder: Path) -> dict[Key, CellRecord]:
    """Read all records of a study, from `cells.jsonl` and `cells/`.

    Invalid records are ignored, so that their runs are repeated.

    Raises:
        InputError: if one of the paths is not a readable file.
    """
    single = [(read_bytes(path) or b"", str(path)) for path in sorted((folder / "cells").glob("*.json"))]
    records = {}
    for line in (*_CELLS.lines(folder), *single):
        with suppress(InputError):
            record = _CELLS.parse(*line)
            records[record.key] = record
    return records


def pack_cells(folder: Path) -> None:
    """Move the records in `cells/` into `cells.jsonl`, replacing older records of the same runs.

    Args:
        folder: of a study that is not running.
    """
    _CELLS.write_lines(folder, sorted(read_cells(folder).values(), key=lambda record: record.key.name))
    shutil.rmtree(folder / "cells", ignore_errors=True)
