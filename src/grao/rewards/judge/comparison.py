"""What every pairwise judge does, on a server or here: pairs in, comparisons out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from grao.rewards.judge.verdicts import Verdict
from grao.rewards.reward import Prompt


@dataclass(frozen=True)
class Pair:
    """Two texts that answer the same prompt."""

    prompt: Prompt
    a: str
    b: str


@dataclass(frozen=True)
class Comparison:
    """A pair, judged. All of it speaks of a and b, whichever of them was shown as Text 1."""

    a_first: Verdict | None
    """With a shown as Text 1: `Verdict.FIRST` says that a is better. None: missing, or not asked in this order."""
    b_first: Verdict | None
    """With b shown as Text 1: `Verdict.FIRST` says that a is better."""
    value: float
    """1: a is better, -1: b is, 0: a tie or a flip, NaN: missing."""
    flipped: bool
    """Both orders have a verdict and they differ."""
    probabilities: tuple[float, float, float] | None = None
    """Of a better, tie, b better, a mean over the orders, from judges that know them."""


@dataclass(frozen=True)
class JudgeTally:
    """What a call of `PairwiseJudge.compare` took."""

    requests: int = 0
    """Questions that were sent out or computed; a repeated attempt is none."""
    cached: int = 0
    """Questions whose answer was known."""
    unreadable: int = 0
    """Answers without a verdict, refusals included."""
    failed: int = 0
    """Questions that got no answer."""
    cost: float = 0.0
    """Paid in this call, in the currency of the prices."""


@runtime_checkable
class PairwiseJudge(Protocol):
    """Says of two texts which is better."""

    @property
    def name(self) -> str:
        """Short name for logs."""
        ...

    @property
    def tally(self) -> JudgeTally:
        """Of the last `compare`."""
        ...

    def compare(self, pairs: Sequence[Pair]) -> list[Comparison]:
        """One comparison for each pair, in their order. What could not be had or read is missing, never a tie.

        Raises:
            InputError: if the judge is set up wrongly.
            RewardUnavailableError: if it cannot be had at the moment.
        """
        ...

    def check(self) -> None:
        """One question, so that a wrong setup shows before any work is done. Raises as `compare`."""
        ...


@runtime_checkable
class EarlyJudge(Protocol):
    """A judge that can be asked before all pairs are there."""

    def begin(self, pairs: Sequence[Pair]) -> None:
        """Starts on pairs that will be part of the next `compare`, and returns at once; `compare` waits for them."""
        ...
