"""What every pairwise judge does, on a server or here: pairs in, verdicts on them out, and from these R(o, y).

Judges prefer one of the two positions, so both orders of a pair are asked and have to agree.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from grao.rewards.judge.wording import PairVerdict, context_text
from grao.types import Prompt

Orders = Literal["both", "one"]


@dataclass(frozen=True)
class Pair:
    """Two texts that answer the same prompt."""

    prompt: Prompt
    a: str
    b: str


KNOWN = Pair("What is the capital of France?", "It is Paris.", "I do not know.")
"""A pair that any judge can tell apart."""


@dataclass(frozen=True)
class JudgedPair:
    """A pair, judged. All of it speaks of a and b, whichever of them was shown as Text 1."""

    a_first: PairVerdict | None
    """With a shown as Text 1: `PairVerdict.FIRST` says that a is better. None: missing, or not asked in this order."""
    b_first: PairVerdict | None
    """With b shown as Text 1: `PairVerdict.FIRST` says that a is better."""
    value: float
    """1: a is better, -1: b is, 0: a tie or a flip, NaN: missing."""
    flipped: bool
    """Both orders have a verdict and they differ."""
    probabilities: tuple[float, float, float] | None = None
    """Of a better, tie, b better, a mean over the orders, from judges that know them."""
    replies: tuple[str, str] = ("", "")
    """What the judge said with a shown first, and with b; empty where it was not asked or did not answer."""


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

    name: str
    """For logs."""
    tally: JudgeTally
    """Of the last `compare`."""

    def compare(self, pairs: Sequence[Pair]) -> list[JudgedPair]:
        """One result for each pair, in their order. What could not be had or read is missing, never a tie.

        Raises:
            InputError: if the judge is set up wrongly.
            RewardUnavailableError: if it cannot be had at the moment.
        """

    def check(self) -> None:
        """One question, so that a wrong setup shows before any work is done. Raises as `compare`."""


@runtime_checkable
class EarlyJudge(Protocol):
    """A judge that can be asked before all pairs are there."""

    def begin(self, pairs: Sequence[Pair]) -> None:
        """Starts on pairs that will be part of the next `compare`, and returns at once; `compare` waits for them."""


@dataclass(frozen=True)
class Shown:
    """A pair in one order."""

    pair: Pair
    swapped: bool
    """b is Text 1."""

    @property
    def texts(self) -> tuple[str, str]:
        """Text 1 and Text 2."""
        return (self.pair.b, self.pair.a) if self.swapped else (self.pair.a, self.pair.b)


def orders_of(pair: Pair, orders: Orders, seed: int) -> list[Shown]:
    """`both`: a first, then b first. `one`: an order drawn from seed and texts, the same for (a, b) and (b, a)."""
    if orders == "both":
        return [Shown(pair, swapped=False), Shown(pair, swapped=True)]
    low, high = sorted((pair.a, pair.b))
    drawn = hashlib.sha256(json.dumps([seed, context_text(pair.prompt), low, high]).encode()).digest()[0] % 2 == 0
    return [Shown(pair, swapped=drawn == (pair.a == low))]


def combine(
    shown: Sequence[Shown], verdicts: Sequence[PairVerdict | None], replies: Sequence[str] = ("", "")
) -> JudgedPair:
    """One result out of the verdicts on a pair's one or two orders, and the replies that hold them.

    Agreement counts, a flip is a tie, and one missing verdict leaves none.
    """
    judged = zip(shown, verdicts, strict=True)
    about_a = {order.swapped: verdict.mirrored if verdict and order.swapped else verdict for order, verdict in judged}
    distinct = {verdict for verdict in about_a.values() if verdict}
    missing, flipped = None in about_a.values(), len(distinct) > 1
    value = math.nan if missing else 0.0 if flipped else distinct.pop().reward
    said = {order.swapped: reply for order, reply in zip(shown, replies, strict=False)}
    return JudgedPair(
        about_a.get(False), about_a.get(True), value, flipped, replies=(said.get(False, ""), said.get(True, ""))
    )
