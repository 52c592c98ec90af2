"""Measured numbers as they stand in records: with their intervals and what they rest on."""

from dataclasses import field

from pydantic.dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A measured number with its interval over prompts."""

    value: float
    low: float
    high: float
    n: int
    """Prompts it rests on."""


@dataclass(frozen=True)
class Measured:
    """One number with intervals that answer different questions and are never mixed."""

    over_prompts: Estimate
    """Would it hold on other prompts, for these very models?"""
    over_seeds: Estimate | None
    """Would it hold if all were trained again, on these very prompts? None with a single seed."""
    over_both: Estimate | None = None
    """Would it hold for new prompts and new trainings at once? None with a single seed."""


@dataclass(frozen=True)
class Tested:
    """A difference for new prompts and new trainings at once, and whether it is one."""

    difference: Estimate
    simultaneous: Estimate
    """The same; all that belong together hold at once (Bonferroni)."""
    p: float
    p_corrected: float
    """For their number (Holm)."""


@dataclass(frozen=True)
class Bin:
    """Pairs of similar confidence."""

    confidence: float
    """Mean."""
    accuracy: Estimate


@dataclass(frozen=True)
class Calibration:
    """Whether a probability of 0.8 means right in 80 %."""

    bins: list[Bin]
    error: Estimate
    """Expected calibration error, bias-corrected."""
    plain_error: float
    """The same, raw."""
    confidence: float
    """Mean."""
    accuracy: float
    """Mean; a confidence above it is too high."""


@dataclass(frozen=True)
class Kappa:
    """How far two judges agree."""

    agreement: Estimate
    kappa: Estimate | None
    """Cohen's; None where both only ever say the same one thing."""


@dataclass(frozen=True)
class Rank:
    """A place in the ranking by all comparisons, the strongest first."""

    name: str
    strength: Estimate
    """Bradley and Terry's, in Elo points above the references, which have 0; 400 are odds of 10 to 1."""


@dataclass(frozen=True)
class Asked:
    """What the questions to a judge took in one evaluation."""

    reward: str
    requests: int
    known: int
    """Questions whose answer was in the ledger."""
    unreadable: int
    failed: int
    cost: float


@dataclass(frozen=True)
class Agreed:
    """A reward against something else that judged the same answers."""

    reward: str
    kappa: Kappa | None
    calibration: Calibration | None = None
    """Of 1 / (1 + exp(-R)), where R is a difference and people said who wins."""


@dataclass(frozen=True)
class Checks:
    """What was found out about the judges beside their verdicts."""

    error: Estimate | None = None
    """Share of its verdicts that are wrong; without an interval where it was told."""
    retest: list[Agreed] = field(default_factory=list)
    """Each reward against itself, asked a second time."""
    labels: list[Agreed] = field(default_factory=list)
    """Each reward against people's preferences."""
    asked: list[Asked] = field(default_factory=list)
