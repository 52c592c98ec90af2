"""What the model at hand makes of the rewards before training, and what the whole run will take."""

from pydantic.dataclasses import dataclass

from grao.records.evaluation import Estimate


@dataclass(frozen=True)
class Spread:
    """A distribution over prompts by its quantiles."""

    lowest: float
    quarter: float
    median: float
    three_quarters: float
    highest: float


@dataclass(frozen=True)
class Policy:
    """The model before training on some training prompts. Shares are of prompts."""

    prompts: int
    samples: int
    """Per prompt, G."""
    mean_beats: Estimate
    """The samples beat the reference on average."""
    some_beats: Estimate
    """At least one sample does."""
    wins: Estimate
    """Share of samples that beat the reference, a mean over prompts."""
    no_signal: Estimate
    """All members of the group have the same reward."""
    dropped: Estimate
    """Too few rewards to learn from."""
    missing: float
    """Share of samples without a reward."""
    truncated: Estimate
    """Share of samples cut at the token limit, a mean over prompts."""
    reward: Spread
    """Of the groups' mean rewards."""
    deviation: Spread
    """Of the rewards' deviations within the groups."""
    between: float | None
    """Share of the samples' variance that lies between prompts; None without variance."""
    tokens: Estimate
    """Mean length of a sample."""
    reference_tokens: float
    length_correlation: Estimate | None
    """Of reward and length within the groups, by ranks."""


@dataclass(frozen=True)
class JudgeForecast:
    """What the whole run will ask of one judge at most."""

    name: str
    questions: int
    tokens: float
    cost: float
    max_cost: float | None
    model: str = ""
    """On the server; judges of one model share what is spent."""


@dataclass(frozen=True)
class Forecast:
    """The whole run, from what the audit took on this machine."""

    steps: int
    prompts_per_step: int
    samples: int
    """Of training and evaluation."""
    rollout: float
    """Seconds per group, as the next two."""
    reward: float
    update: float | None
    """Forward and backward pass; None where no group had a signal."""
    known: float
    """Share of the judges' verdicts that took no time because they were in the ledger."""
    hours: float
    judges: list[JudgeForecast]
