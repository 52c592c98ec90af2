"""Measured numbers in records, with their intervals and sample sizes."""

from dataclasses import field

from pydantic.dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A measured number with its confidence interval."""

    value: float
    low: float
    """Lower limit of the interval."""
    high: float
    """Upper limit of the interval."""
    n: int
    """Number of prompts that it is based on; for an interval over seeds, number of seeds."""


@dataclass(frozen=True)
class Measured:
    """A number with separate intervals for three different questions."""

    over_prompts: Estimate
    """For new prompts and the same trained models."""
    over_seeds: Estimate | None
    """For new training runs on the same prompts; None with a single seed."""
    over_both: Estimate | None = None
    """For new prompts and new training runs; None with a single seed."""


@dataclass(frozen=True)
class Tested:
    """A difference over prompts and seeds with its test."""

    difference: Estimate
    simultaneous: Estimate
    """The same with a simultaneous interval for all comparisons of the family (Bonferroni)."""
    p: float
    p_corrected: float
    """Holm-adjusted p-value."""


@dataclass(frozen=True)
class Bin:
    """A calibration bin: pairs of similar confidence."""

    confidence: float
    """Mean confidence."""
    accuracy: Estimate


@dataclass(frozen=True)
class Calibration:
    """Calibration of probabilities: whether a probability of 0.8 means an accuracy of 80 %."""

    bins: list[Bin]
    error: Estimate
    """Expected calibration error, bias-corrected."""
    plain_error: float
    """Raw expected calibration error."""
    confidence: float
    """Mean confidence."""
    accuracy: float
    """Mean accuracy; overconfident if it is below the confidence."""


@dataclass(frozen=True)
class Kappa:
    """Agreement of two judges."""

    agreement: Estimate
    kappa: Estimate | None
    """Cohen's kappa; None if both judges always give the same single verdict."""


@dataclass(frozen=True)
class Rank:
    """An entry of the Bradley-Terry ranking, which lists the strongest first."""

    name: str
    strength: Estimate
    """In Elo points relative to the references, which have 0; 400 points are odds of 10 to 1."""


@dataclass(frozen=True)
class JudgeQuestions:
    """Questions to a judge in one evaluation: requests plus `known`."""

    reward: str
    requests: int
    known: int
    """Questions answered from the ledger."""
    unreadable: int
    failed: int
    cost: float


@dataclass(frozen=True)
class RewardAgreement:
    """Agreement of a reward with another source of verdicts on the same answers."""

    reward: str
    kappa: Kappa | None
    calibration: Calibration | None = None
    """Calibration of 1 / (1 + exp(-R)) against human preferences, if R is a difference of scores."""


@dataclass(frozen=True)
class Checks:
    """Measurements of the reliability of the judges."""

    error: Estimate | None = None
    """Share of wrong verdicts; `n` is 0 if it was configured rather than measured."""
    retest: list[RewardAgreement] = field(default_factory=list)
    """Agreement of each reward with itself when asked again."""
    labels: list[RewardAgreement] = field(default_factory=list)
    """Agreement of each reward with human preferences."""
    asked: list[JudgeQuestions] = field(default_factory=list)
    """Questions to each judge."""
