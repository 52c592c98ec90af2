"""The figures of one reward, and of two side by side. None stands where nothing was there to be measured."""

from pydantic.dataclasses import dataclass

from grao.records.evaluation import Estimate


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
    """Expected calibration error, without what chance adds to it."""
    plain_error: float
    """The same with it."""
    confidence: float
    """Mean."""
    accuracy: float
    """Mean; a confidence above it is too high."""


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


@dataclass(frozen=True)
class Kappa:
    """How far two judges agree."""

    agreement: Estimate
    kappa: Estimate | None
    """Cohen's; None where both only ever say the same one thing."""


@dataclass(frozen=True)
class Agreement:
    """Of two rewards."""

    first: str
    second: str
    pairs: Kappa | None
    """On reference and rejected answer, either of them in either place."""
    samples: Kappa | None
    """On the first sample of each group against its reference."""
