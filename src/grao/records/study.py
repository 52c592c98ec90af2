"""`study.json`: what a study comes to. Every number can be recomputed from the records of its runs, `cells/`."""

import json
from dataclasses import field
from pathlib import Path

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from grao.records.evaluation import Estimate
from grao.records.files import replace_text


@dataclass(frozen=True)
class Measured:
    """One number with two intervals that answer different questions and are never mixed."""

    over_prompts: Estimate
    """Would it hold on other prompts, for these very models?"""
    over_seeds: Estimate | None
    """Would it hold if all were trained again, on these very prompts? None with a single seed."""


@dataclass(frozen=True)
class ArmCost:
    """What one run of an arm took, on average."""

    steps: float
    reward_calls: float
    tokens_sampled: float
    tokens_trained: float
    seconds: dict[str, float]
    """`training`, of it `rollout`, `reward`, `update`; and `evaluation`, `total`."""


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
    cost: ArmCost
    calls_to_best: float | None
    """Reward calls to 95 % of the mean curve's best RAS; None where none are asked for or no curve was taken."""
    steps_to_best: float | None
    falling: float | None
    """Share of evaluations below the one before, mean over seeds; None without a curve."""


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


@dataclass(frozen=True)
class BandPoint:
    """One point of an arm's curve over its seeds."""

    step: float
    reward_calls: float
    seconds: float
    """Of training, mean over seeds."""
    ras: Estimate
    """Mean over seeds with its interval over seeds."""


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


@dataclass(frozen=True)
class Sweep:
    """What is said of a study with axes, in place of one comparison of all arms with one."""

    axes: list[str]
    places: list[Place]
    contrasts: list[Comparison]
    """The main arm against each other one at the same point; p-values corrected over all of them."""
    changes: list[Change]
    """Of a sweep with one axis and several seeds."""


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


_RESULT = TypeAdapter(StudyResult)


def write_study(folder: Path, result: StudyResult) -> None:
    """Writes `study.json`, whole or not at all."""
    text = json.dumps(_RESULT.dump_python(result, mode="json"), indent=1, ensure_ascii=False)
    replace_text(folder / "study.json", text + "\n")


def read_study(folder: Path) -> StudyResult | None:
    """None where there is none."""
    path = folder / "study.json"
    return _RESULT.validate_json(path.read_bytes()) if path.exists() else None
