"""`audit.json`: figures and verdict of an audit with everything they rest on.

The figures of each reward, what was asked and answered text by text, what the model makes of the rewards before
training, and what the whole run will take. Each figure can be recomputed from the readings, groups and timings in the
same file. None stands where there was nothing to measure.
"""

from dataclasses import field

from pydantic.dataclasses import dataclass

from grao.records.files import Record
from grao.records.numbers import Calibration, Estimate, Kappa
from grao.records.run import Manifest, Prompted


@dataclass(frozen=True)
class Accuracy:
    """On pairs of a reference and a worse answer."""

    decided: Estimate | None
    """Right among the pairs that are no tie; None where all are."""
    half_ties: Estimate | None
    """Right, and half of the ties, among all pairs."""
    ties: Estimate | None
    """Share of ties; flips count among them."""
    missing: Estimate
    """Share of pairs without a verdict; they are in no other figure."""


@dataclass(frozen=True)
class Orders:
    """What a judge makes of the order in which it sees two texts."""

    flips: Estimate | None
    """Among pairs with two verdicts, those whose verdicts differ; None where one order was asked."""
    first_wins: Estimate | None
    """Share of wins that go to the text shown first; 0.5 without bias. None where nothing was decided."""


@dataclass(frozen=True)
class Questions:
    """What a judge made of the questions of the audit."""

    asked: int
    known: int
    """Of these, from the ledger."""
    unreadable: Estimate | None
    """Share of answers without a verdict."""
    failed: Estimate | None
    """Share of questions without an answer."""
    cost: float


@dataclass(frozen=True)
class Length:
    """What a reward makes of length, over decided pairs whose answers differ in it."""

    longer_wins: Estimate
    longer_is_reference: Estimate
    """What the first would be for a reward that is always right."""
    accuracy_gap: Estimate | None
    """Accuracy where the reference is the longer one minus where it is the shorter; 0 without bias."""
    correlation: Estimate | None
    """Spearman's, of the reward with the difference in length."""


@dataclass(frozen=True)
class Edit:
    """What a reward makes of one trivial edit of the reference."""

    edit: str
    changed: Estimate
    """Share of verdicts that are not a tie."""
    wins: Estimate
    """Share in which the edited text beats the reference."""
    size: float | None
    """Mean |R| of the edited text in units of the mean |R| of the policy's samples; None where that is 0."""


@dataclass(frozen=True)
class Wrong:
    """What a reward makes of texts that are wrong answers whatever the task."""

    text: str
    """Which texts."""
    as_good: Estimate
    """Share in which they beat the reference, or draw level with it (half)."""


@dataclass(frozen=True)
class RewardFigures:
    """One reward of the recipe, their sum, or the second judge."""

    name: str
    kind: str
    """judge, reward model, rule, function, or sum."""
    role: str
    """`deciding`: what training follows; `part` of the sum; `second`, to compare with."""
    accuracy: Accuracy | None
    """This and what follows: None where nothing was there to be measured."""
    orders: Orders | None
    questions: Questions | None
    length: Length | None
    itself: Edit | None
    """The reference against itself, after both orders if both are asked."""
    itself_asked: Estimate | None
    """Share of a judge's single verdicts on a text against itself that are not a tie."""
    edits: list[Edit]
    calibration: Calibration | None
    content: list[Wrong] = field(default_factory=list)
    """Empty where it was not asked about any."""


@dataclass(frozen=True)
class Agreement:
    """Of two rewards."""

    first: str
    second: str
    pairs: Kappa | None
    """On reference and rejected answer, either of them in either place."""
    samples: Kappa | None
    """On the first sample of each group against its reference."""


@dataclass(frozen=True)
class Reading:
    """What one reward said of a text against the reference."""

    value: float | None
    """R(text, y) as in training: above 0 the text is better, None is missing."""
    shown_first: float | None = None
    """A judge's verdict on the text, 1, 0 or -1, when it was shown first; None: not asked so, or unreadable."""
    shown_second: float | None = None
    """The same when it was shown second."""
    probability: float | None = None
    """That the text is the better one: a judge's own, half of a tie's included, or the logistic of a difference."""


@dataclass(frozen=True)
class PairItem(Prompted):
    """A reference and a worse answer to the same prompt."""

    rejected: str
    held_out: bool
    """Whether no training run with this recipe sees the prompt."""
    readings: dict[str, Reading]
    """Of the rejected answer, by reward."""


@dataclass(frozen=True)
class EditItem:
    """A reference against itself, as it is or trivially edited."""

    id: str
    edit: str
    readings: dict[str, Reading]
    """Of the edited reference, by reward."""


@dataclass(frozen=True)
class GroupItem(Prompted):
    """A prompt that the policy answered G times."""

    reference_tokens: int
    rewards: list[float | None]
    """G, the total of the mix."""
    parts: dict[str, list[float | None]]
    """G of each reward by name, and one, of the first sample, of the second judge."""
    no_signal: bool
    """All members have the same reward: nothing is learned."""
    dropped: bool
    """Too few rewards to learn from."""
    tokens: list[int]
    """G."""
    truncated: list[bool]
    """G."""
    best: str
    """The sample with the highest reward."""


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
    certain: int = 0
    """Of the questions, those that are asked whatever is sampled."""

    @property
    def words(self) -> str:
        """In a line."""
        known = f" ({self.certain:,} of them before anything is sampled)" if self.certain else ""
        asked = f"up to {self.questions:,} questions{known}, {self.tokens / 1e6:,.1f} million tokens"
        return f"judge {self.name}: {asked}{f', about {self.cost:,.2f}' if self.cost else ''}"


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


@dataclass(frozen=True)
class Finding:
    """Something to fix."""

    problem: str
    """With the figure that says so."""
    remedy: str


@dataclass(frozen=True)
class Verdict:
    """Whether it is safe to train."""

    safe: bool
    findings: list[Finding]
    """What to fix, empty if safe."""
    unchecked: list[str]
    """What could not be checked, and what it takes to check it."""


@dataclass(frozen=True)
class Audit:
    """Everything in `audit.json`."""

    confidence: float
    """Level of the intervals."""
    rewards: list[RewardFigures]
    """What decides comes first."""
    agreements: list[Agreement]
    policy: Policy
    forecast: Forecast
    verdict: Verdict
    pairs: list[PairItem] = field(default_factory=list)
    edits: list[EditItem] = field(default_factory=list)
    groups: list[GroupItem] = field(default_factory=list)
    manifest: Manifest = field(default_factory=Manifest)
    """Recipe, versions, data: as of a run."""


_AUDIT = Record("audit.json", Audit, indent=1)
read_audit, write_audit = _AUDIT.read, _AUDIT.write
