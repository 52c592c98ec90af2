"""What a study leaves: a record of each of its training runs, and `study.json`, what they come to.

Every number in `study.json` can be recomputed from the records of the runs, which are small enough to be kept under
version control. Verdicts are one letter a prompt, so that a run over 300 prompts takes two or three kilobytes. Left
out: the answers themselves and the model.

A study that runs writes one file a run, `cells/NAME.json`. A study that is kept has all of them in `cells.jsonl`, one
line a run, sorted by name (`pack_cells`). A folder may hold both; the record in `cells/` is then the newer one.
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
"""A run that helps to choose a learning rate, or one that counts."""

Letters = str
"""One letter a prompt: `w` the answer wins, `t` ties, `l` loses, `-` no verdict."""


@dataclass(frozen=True)
class Key:
    """Which run of a study."""

    arm: str
    role: Role
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """`grao-final-lr0.0005-seed0`, also the name of its file."""
        return f"{self.arm}-{self.role}-lr{self.learning_rate:g}-seed{self.seed}"

    @property
    def words(self) -> str:
        """`grao, rate 0.0005, seed 0`."""
        choosing = "choosing: " if self.role == "select" else ""
        return f"{choosing}{self.arm}, rate {self.learning_rate:g}, seed {self.seed}"


@dataclass(frozen=True)
class Point:
    """One evaluation on the way."""

    step: int
    reward_calls: int
    """Rewards asked for in training until then."""
    seconds: float
    """Of training until then, evaluations not counted."""
    ras: float
    mean_reward: float
    work: float = 0.0
    """Seconds of counted work until then; 0 where none is counted."""


@dataclass(frozen=True)
class Cost:
    """What a run took, in whole numbers, or the runs of an arm on average."""

    steps: int | float
    reward_calls: int | float
    """Rewards asked for in training."""
    tokens_sampled: int | float
    tokens_trained: int | float
    seconds: dict[str, float]
    """`training`, of it `rollout`, `reward`, `update`; and `evaluation`, `total`."""
    work: float = 0.0
    """Seconds of counted work; 0 where none is counted."""
    stages: list[int] = field(default_factory=list)
    """Steps at which one stage handed over to the next."""


@dataclass(frozen=True)
class Outcomes:
    """The held-out prompts, one letter each, all in the same order."""

    prompts: str
    """Fingerprint of prompts and references: only equal ones can be paired."""
    after: Letters
    """The trained model against the references."""
    mean_reward: float
    """Of `after`, R(o, y)."""
    mean_tokens: float
    truncated: float
    """Share of answers cut at the token limit."""
    before: Letters = ""
    """The model before training against the references; empty for a selection."""
    gain: Letters = ""
    """The answer after training against the one before."""
    right: Letters = ""
    """Of `after`: `w` right, `l` not, by the gold judge of the embedded world; empty elsewhere."""


@dataclass(frozen=True)
class CellRecord:
    """One run: finished with outcomes and cost, or failed with an error."""

    key: Key
    settings: dict[str, Any]
    """Dotted field -> value: all that decides the result. A record with other settings does not count."""
    started: str
    finished: str
    versions: dict[str, str]
    git: str | None
    outcomes: Outcomes | None = None
    cost: Cost | None = None
    curve: list[Point] = field(default_factory=list)
    """From before training, step 0, to the end."""
    error: str | None = None
    """Of a failed run, in one line."""

    def __post_init__(self) -> None:
        _check_phases([self.cost] if self.cost else [])


@dataclass(frozen=True)
class ArmResult:
    """What one arm reached over all its finished runs."""

    arm: str
    learning_rate: float
    seeds: list[int]
    """Of the finished runs."""
    before: Measured
    """RAS of the model before training, mostly the same for all arms."""
    ras: Measured
    """Strict wins over the reference."""
    ras_win_or_tie: Measured
    nag: Measured
    """Net, after training against before."""
    mean_reward: float
    mean_tokens: float
    truncated: float
    """Share of answers cut at the token limit."""
    cost: Cost
    """Of one run, on average."""
    calls_to_best: float | None
    """Reward calls to 95 % of the mean curve's best RAS; None where none are asked for or no curve was taken."""
    steps_to_best: float | None
    falling: float | None
    """Share of evaluations below the one before, mean over seeds; None without a curve."""
    right: Measured | None = None
    """Right answers, where the runs recorded them."""


@dataclass(frozen=True)
class Comparison:
    """The main arm less another one, over the seeds that both have."""

    arm: str
    other: str
    seeds: list[int]
    difference: Measured
    """RAS of the one less RAS of the other."""
    relative_ras: float | None
    """RAS of the one / RAS of the other - 1; None where the other never wins."""
    p_prompts: float
    """Exact McNemar test with one seed; with several, signs of the prompts' mean differences flipped."""
    p_prompts_corrected: float
    """Holm, over all comparisons."""
    p_seeds: float | None
    """Signs of the seeds' differences flipped; None with a single seed."""
    p_seeds_corrected: float | None
    both: Tested | None = None
    """RAS of the one less RAS of the other, over prompts and seeds at once; None with a single seed."""
    win_or_tie: Tested | None = None
    """The same of win or tie, corrected for itself."""


@dataclass(frozen=True)
class BandPoint:
    """One point of an arm's curve over its seeds."""

    step: float
    reward_calls: float
    seconds: float
    """Of training, mean over seeds."""
    ras: Estimate
    """Mean over seeds with its interval over seeds."""
    work: float = 0.0
    """Counted, mean over seeds."""


@dataclass(frozen=True)
class Band:
    """The curve of one arm."""

    arm: str
    points: list[BandPoint]


@dataclass(frozen=True)
class Candidate:
    """One learning rate that could be chosen, judged on training prompts that were kept away."""

    arm: str
    learning_rate: float
    ras: float | None
    """Mean over the selection's seeds; None if a run failed."""
    mean_reward: float | None
    interval: Estimate | None = None
    """Of RAS: over the selection's prompts, with several seeds over prompts and seeds at once."""
    chosen: float | None = None
    """Share of resamples of the selection's prompts and seeds in which this rate is chosen."""


@dataclass(frozen=True)
class Failure:
    """A run that did not come to its end."""

    cell: str
    error: str


@dataclass(frozen=True)
class Place:
    """Where one arm of a sweep stands."""

    name: str
    """Of the arm in `StudyResult.arms`."""
    arm: str
    """As the sweep calls it."""
    point: list[str]
    """A label for each axis."""


@dataclass(frozen=True)
class Change:
    """How the main arm's lead over another one changes along the axis: at its last point less at its first."""

    other: str
    change: Estimate
    """Of RAS differences, over seeds."""
    p_seeds: float
    """Corrected for the number of other arms (Holm)."""
    over: Literal["seeds", "models"] = "seeds"
    """What interval and p-value are over: trainings of one model, or pretrained models, each a mean over seeds."""


@dataclass(frozen=True)
class Below:
    """A point of a sweep of one arm against its best point."""

    name: str
    best: str
    ras: Tested
    """Less that of the best; corrected for every two points, since the best was picked by looking."""


@dataclass(frozen=True)
class Sweep:
    """What is said of a study with axes, in place of one comparison of all arms with one."""

    axes: list[str]
    places: list[Place]
    contrasts: list[Comparison]
    """The main arm against each other one at the same point; p-values corrected over all of them."""
    changes: list[Change]
    """Of a sweep with one axis and several seeds, and of one over ability and pretrained models."""
    below: list[Below] = field(default_factory=list)
    """Of a sweep of one arm with several seeds: its other points."""

    def __post_init__(self) -> None:
        if not self.places or any(len(place.point) != len(self.axes) for place in self.places):
            raise ValueError("places must be there, each with one label an axis")
        _check_names([contrast.other for contrast in self.contrasts], [place.name for place in self.places])


@dataclass(frozen=True)
class Situation:
    """A group by its verdicts, and what each of its answers counts."""

    wins: int
    losses: int
    """The other samples of the group tie."""
    won: float | None
    """Weight of a sample that won, w_i; None where there is none."""
    lost: float | None
    reference: float
    """w_y."""


@dataclass(frozen=True)
class ArmWeights:
    """What an arm of an ablation comes to: the weights in front of the likelihoods."""

    arm: str
    kappa: float | None
    """Of eq. 3, what its coefficients set but for the scale: (w_y / A_y) / (G w_i / A_i)."""
    situations: list[Situation]
    rescaled: str | None
    """The first arm whose weights are these times one positive number, in every group that verdicts can make."""


@dataclass(frozen=True)
class StudyResult:
    """Everything that the table, the curves and the verdict say."""

    confidence: float
    prompts: int
    """Held-out prompts."""
    seeds: int
    """That were wanted of each arm."""
    budget: str
    """`100 steps`."""
    main: str
    """The arm that all others are tested against."""
    arms: list[ArmResult]
    comparisons: list[Comparison]
    curves: list[Band]
    candidates: list[Candidate] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    """Arms without any finished run."""
    versions: list[dict[str, str]] = field(default_factory=list)
    """Those that the runs were made with, each once."""
    sweep: Sweep | None = None
    """Of a study with axes."""
    weights: list[ArmWeights] = field(default_factory=list)
    """Of an ablation."""
    pairs: list[Comparison] = field(default_factory=list)
    """Every two arms of a study without axes, p-values corrected for the number of pairs."""
    rates: dict[str, float] = field(default_factory=dict)
    """Seconds that work is counted by: of a step, and of a token that is sampled, forwarded or backwarded."""

    def __post_init__(self) -> None:
        _check_phases([arm.cost for arm in self.arms])
        _check_names([self.arms[0].arm if self.arms else "", *(b.arm for b in self.curves)], [a.arm for a in self.arms])


def _check_phases(costs: Sequence[Cost]) -> None:
    for cost in costs:
        if missing := {"training", "rollout", "reward", "update", "total"} - cost.seconds.keys():
            raise ValueError(f"cost.seconds lacks {min(missing)}")


def _check_names(used: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [name for name in used if name not in known]:
        raise ValueError(f"{unknown[0]!r} is none of its arms")


_STUDY = Record("study.json", StudyResult, indent=1, remedy="run the study again; finished runs are kept")
read_study, write_study = _STUDY.read, _STUDY.write
_CELLS = Record("cells.jsonl", CellRecord)


def write_cell(folder: Path, record: CellRecord) -> None:
    """Writes `cells/NAME.json` into the folder of a study, whole or not at all."""
    Record(f"cells/{record.key.name}.json", CellRecord, indent=1).write(folder, record)


def read_cells(folder: Path) -> dict[Key, CellRecord]:
    """All records of a study, from `cells.jsonl` and `cells/`.

    A record that cannot be read is left out: its run is done again.

    Raises:
        InputError: if one of the files is none.
    """
    alone = [(read_bytes(path) or b"", str(path)) for path in sorted((folder / "cells").glob("*.json"))]
    records = {}
    for line in (*_CELLS.lines(folder), *alone):
        with suppress(InputError):
            record = _CELLS.parse(*line)
            records[record.key] = record
    return records


def pack_cells(folder: Path) -> None:
    """Moves the records in `cells/` into `cells.jsonl`, where one of the same run is replaced.

    Args:
        folder: of a study that is not running.
    """
    _CELLS.write_lines(folder, sorted(read_cells(folder).values(), key=lambda record: record.key.name))
    shutil.rmtree(folder / "cells", ignore_errors=True)
