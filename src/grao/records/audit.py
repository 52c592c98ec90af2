"""`audit.json`: figures and verdict of a reward audit, with the data that they are computed from.

It contains the figures of each reward, the readings text by text, the rewards of the model's samples before training,
and the forecast of the run. Every figure can be recomputed from the readings, groups and timings in the same file. A
figure that could not be measured is None.
"""

from dataclasses import field

from pydantic.dataclasses import dataclass

from grao.records.files import Record
from grao.records.numbers import Calibration, Estimate, Kappa
from grao.records.run import Manifest, PromptItem


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on pairs of a reference and a worse answer."""

    decided: Estimate | None
    """Accuracy on the pairs that are not ties; None if all are ties."""
    half_ties: Estimate | None
    """Accuracy on all pairs, with ties counted half."""
    ties: Estimate | None
    """Share of ties, including flips."""
    missing: Estimate
    """Share of pairs without a verdict; they are excluded from all other figures."""


@dataclass(frozen=True)
class Orders:
    """Effect of the order of the texts on a judge."""

    flips: Estimate | None
    """Share of pairs whose verdict changes with the order; None if only one order was requested."""
    first_wins: Estimate | None
    """Share of wins that go to the text shown first; 0.5 without bias. None if nothing was decided."""


@dataclass(frozen=True)
class Questions:
    """Questions of the audit to a judge, including those answered from its ledger."""

    asked: int
    known: int
    """Questions answered from the ledger, included in `asked`."""
    unreadable: Estimate | None
    """Share of replies without a verdict."""
    failed: Estimate | None
    """Share of questions without a reply."""
    cost: float


@dataclass(frozen=True)
class Length:
    """Length bias of a reward, on decided pairs whose answers differ in length."""

    longer_wins: Estimate
    longer_is_reference: Estimate
    """`longer_wins` of a reward that is always right."""
    accuracy_gap: Estimate | None
    """Accuracy where the reference is longer minus accuracy where it is shorter; 0 without bias."""
    correlation: Estimate | None
    """Spearman's correlation of the reward with the length difference."""


@dataclass(frozen=True)
class Edit:
    """Effect of a trivial edit of the reference on a reward."""

    edit: str
    changed: Estimate
    """Share of verdicts that are not a tie."""
    wins: Estimate
    """Share of verdicts in which the edited text beats the reference."""
    size: float | None
    """Mean |R| of the edited text relative to the mean |R| of the policy's samples; None if the latter is 0."""


@dataclass(frozen=True)
class Wrong:
    """Verdicts of a reward on texts that are wrong answers for any task."""

    text: str
    """Kind of the texts."""
    as_good: Estimate
    """Share of the texts that beat the reference, plus half of the ties."""


@dataclass(frozen=True)
class RewardFigures:
    """Figures of one reward of the recipe, of their sum, or of the second judge."""

    name: str
    kind: str
    """judge, reward model, rule, function, or sum."""
    role: str
    """`deciding`: the training reward; `part`: part of the sum; `second`: for comparison."""
    accuracy: Accuracy | None
    """None, like the following fields, if there was nothing to measure."""
    orders: Orders | None
    questions: Questions | None
    length: Length | None
    itself: Edit | None
    """The reference compared with itself, with both orders if both are requested."""
    itself_asked: Estimate | None
    """Share of a judge's single verdicts on a text compared with itself that are not a tie."""
    edits: list[Edit]
    calibration: Calibration | None
    content: list[Wrong] = field(default_factory=list)
    """Verdicts on wrong answers; empty if none were requested."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of two rewards."""

    first: str
    second: str
    pairs: Kappa | None
    """On pairs of reference and rejected answer, symmetrised over the two sides."""
    samples: Kappa | None
    """On the first sample of each group compared with its reference."""


@dataclass(frozen=True)
class Reading:
    """Verdict of one reward on a text compared with the reference."""

    value: float | None
    """R(text, y) as in training: above 0 the text is better; None = missing."""
    shown_first: float | None = None
    """A judge's verdict (1, 0 or -1) with the text shown first; None if not requested or unreadable."""
    shown_second: float | None = None
    """The same with the text shown second."""
    probability: float | None = None
    """Probability that the text is better: the judge's own (half of a tie's included), or the logistic of R."""


@dataclass(frozen=True)
class PairItem(PromptItem):
    """A reference and a worse answer to the same prompt."""

    rejected: str
    held_out: bool
    """Whether the prompt is excluded from training with this recipe."""
    readings: dict[str, Reading]
    """Reward name -> verdict on the rejected answer."""


@dataclass(frozen=True)
class EditItem:
    """A reference compared with itself, with an edited version, or with a wrong answer."""

    id: str
    edit: str
    readings: dict[str, Reading]
    """Reward name -> verdict on the other text."""


@dataclass(frozen=True)
class GroupItem(PromptItem):
    """A prompt with G samples of the policy."""

    reference_tokens: int
    rewards: list[float | None]
    """Total reward of each sample, G values."""
    parts: dict[str, list[float | None]]
    """Reward name -> G rewards; for the second judge, a single reward of the first sample."""
    no_signal: bool
    """Whether all members have the same reward, so that nothing is learned."""
    dropped: bool
    """Whether there are too few rewards to learn from."""
    tokens: list[int]
    """Length of each sample, G values."""
    truncated: list[bool]
    """Whether each sample was truncated, G values."""
    best: str
    """The sample with the highest reward."""


@dataclass(frozen=True)
class Spread:
    """Quantiles of a distribution over prompts."""

    lowest: float
    quarter: float
    median: float
    three_quarters: float
    highest: float


@dataclass(frozen=True)
class Policy:
    """The model before training, on some training prompts; shares are over prompts."""

    prompts: int
    samples: int
    """Samples per prompt, G."""
    mean_beats: Estimate
    """Share of prompts on which the samples beat the reference on average."""
    some_beats: Estimate
    """Share of prompts on which at least one sample beats the reference."""
    wins: Estimate
    """Share of samples that beat the reference, mean over prompts."""
    no_signal: Estimate
    """Share of groups whose members all have the same reward."""
    dropped: Estimate
    """Share of groups with too few rewards to learn from."""
    missing: float
    """Share of samples without a reward."""
    truncated: Estimate
    """Share of samples truncated at the token limit, mean over prompts."""
    reward: Spread
    """Mean reward per group."""
    deviation: Spread
    """Standard deviation of the rewards within a group."""
    between: float | None
    """Share of the reward variance that is between prompts; None without variance."""
    tokens: Estimate
    """Mean length of a sample."""
    reference_tokens: float
    """Mean length of a reference."""
    length_correlation: Estimate | None
    """Rank correlation of reward and length within the groups."""


@dataclass(frozen=True)
class JudgeForecast:
    """Upper limit on the questions of the whole run to one judge."""

    name: str
    questions: int
    tokens: float
    cost: float
    max_cost: float | None
    model: str = ""
    """Model on the server; judges with the same model share the budget."""
    certain: int = 0
    """Questions that are asked whatever is sampled, included in `questions`."""

    @property
    def words(self) -> str:
        """The forecast in one line."""
        known = f" ({self.certain:,} of them before anything is sampled)" if self.certain else ""
        questions = f"up to {self.questions:,} questions{known}, {self.tokens / 1e6:,.1f} million tokens"
        return f"judge {self.name}: {questions}{f', about {self.cost:,.2f}' if self.cost else ''}"


@dataclass(frozen=True)
class Forecast:
    """Forecast of the whole run, extrapolated from the time that the audit's groups took on this machine."""

    steps: int
    prompts_per_step: int
    samples: int
    """Samples in training and evaluation."""
    rollout: float
    """Seconds per group, like `reward` and `update`."""
    reward: float
    update: float | None
    """Forward and backward pass; None if no group had a signal."""
    known: float
    """Share of the judges' verdicts that came from the ledger and took no time."""
    hours: float
    judges: list[JudgeForecast]


@dataclass(frozen=True)
class Finding:
    """A problem to fix."""

    problem: str
    """The problem with its figure."""
    remedy: str


@dataclass(frozen=True)
class Verdict:
    """Whether it is safe to train."""

    safe: bool
    findings: list[Finding]
    """Problems to fix; empty if safe."""
    unchecked: list[str]
    """Checks that were not possible, and what they require."""


@dataclass(frozen=True)
class Audit:
    """Content of `audit.json`."""

    confidence: float
    """Nominal coverage of the intervals."""
    rewards: list[RewardFigures]
    """Figures of the rewards, the deciding one first."""
    agreements: list[Agreement]
    policy: Policy
    forecast: Forecast
    verdict: Verdict
    pairs: list[PairItem] = field(default_factory=list)
    edits: list[EditItem] = field(default_factory=list)
    groups: list[GroupItem] = field(default_factory=list)
    manifest: Manifest = field(default_factory=Manifest)
    """Recipe, versions and data, as in a run."""


_AUDIT = Record("audit.json", Audit, indent=1)
read_audit, write_audit = _AUDIT.read, _AUDIT.write
