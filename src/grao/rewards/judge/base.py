"""The interface of pairwise judges, on a server or in this process, and how verdicts become R(o, y).

Judges have a position bias, so each pair is judged in both orders, and the verdicts must agree.
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
    """Two answers to the same prompt."""

    prompt: Prompt
    a: str
    b: str


KNOWN = Pair("What is the capital of France?", "It is Paris.", "I do not know.")
"""A pair on which any judge can give a verdict."""


@dataclass(frozen=True)
class JudgedPair:
    """Verdicts on a pair. All fields refer to a and b, whichever was shown as Text 1."""

    a_first: PairVerdict | None
    """Verdict with a shown as Text 1; `PairVerdict.FIRST` means that a is better. None if missing or not asked."""
    b_first: PairVerdict | None
    """Verdict with b shown as Text 1; here too `PairVerdict.FIRST` means that a is better."""
    value: float
    """1 if a is better, -1 if b is better, 0 for a tie or a flip, NaN if missing."""
    flipped: bool
    """The verdicts of the two orders differ."""
    probabilities: tuple[float, float, float] | None = None
    """Probabilities of (a better, tie, b better), averaged over the orders, if the judge provides them."""
    replies: tuple[str, str] = ("", "")
    """Replies with a shown first and with b shown first; empty if not asked or not answered."""


@dataclass(frozen=True)
class JudgeTally:
    """Counts of one call of `PairwiseJudge.compare`."""

    requests: int = 0
    """Questions sent or computed, not counting retries."""
    cached: int = 0
    """Questions answered from the ledger."""
    unreadable: int = 0
    """Answers without a verdict, refusals included."""
    failed: int = 0
    """Questions without an answer."""
    cost: float = 0.0
    """Cost of this call, in the currency of the prices."""


@runtime_checkable
class PairwiseJudge(Protocol):
    """Decides which of two texts is better."""

    name: str
    """For logs."""
    tally: JudgeTally
    """Counts of the last `compare`."""

    def compare(self, pairs: Sequence[Pair]) -> list[JudgedPair]:
        """Judge each pair, in order. A verdict that is unavailable or unreadable is missing, never a tie.

        Raises:
            InputError: if the judge is misconfigured.
            RewardUnavailableError: if it is temporarily unavailable.
        """

    def check(self) -> None:
        """Ask one question, so that a misconfigured judge fails before any work is done. Raises as `compare`."""


@runtime_checkable
class EarlyJudge(Protocol):
    """A judge that can start before all pairs are available."""

    def begin(self, pairs: Sequence[Pair]) -> None:
        """Start on pairs that will be part of the next `compare`, and return immediately; `compare` waits for them."""


@dataclass(frozen=True)
class OrderedPair:
    """A pair in one order."""

    pair: Pair
    swapped: bool
    """Whether b is shown as Text 1."""

    @property
    def texts(self) -> tuple[str, str]:
        """(Text 1, Text 2)."""
        return (self.pair.b, self.pair.a) if self.swapped else (self.pair.a, self.pair.b)


def orders_of(pair: Pair, orders: Orders, seed: int) -> list[OrderedPair]:
    """Return the orders in which a pair is shown.

    Args:
        pair: the two texts.
        orders: `both` shows a first, then b first; `one` draws an order from seed and texts, which is the same for
            (a, b) and (b, a).
        seed: changes the draw.
    """
    if orders == "both":
        return [OrderedPair(pair, swapped=False), OrderedPair(pair, swapped=True)]
    low, high = sorted((pair.a, pair.b))
    drawn = hashlib.sha256(json.dumps([seed, context_text(pair.prompt), low, high]).encode()).digest()[0] % 2 == 0
    return [OrderedPair(pair, swapped=drawn == (pair.a == low))]


def combine(
    shown: Sequence[OrderedPair], verdicts: Sequence[PairVerdict | None], replies: Sequence[str] = ("", "")
) -> JudgedPair:
    """Combine the verdicts on the one or two orders of a pair.

    Verdicts that agree count, a flip is a tie, and if one is missing the result is missing.

    Args:
        shown: the orders.
        verdicts: the verdict on each, with Text 1 as FIRST; None if missing.
        replies: the judge's reply to each.
    """
    judged = zip(shown, verdicts, strict=True)
    about_a = {order.swapped: verdict.mirrored if verdict and order.swapped else verdict for order, verdict in judged}
    distinct = {verdict for verdict in about_a.values() if verdict}
    missing, flipped = None in about_a.values(), len(distinct) > 1
    value = math.nan if missing else 0.0 if flipped else distinct.pop().reward
    reply_of = {order.swapped: reply for order, reply in zip(shown, replies, strict=False)}
    return JudgedPair(
        about_a.get(False), about_a.get(True), value, flipped, replies=(reply_of.get(False, ""), reply_of.get(True, ""))
    )
