"""The order in which a judge sees two texts. Judges prefer a place, so both orders are asked and have to agree."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from grao.rewards.judge.comparison import Comparison, Pair
from grao.rewards.judge.templates import context_text
from grao.rewards.judge.verdicts import Verdict

Orders = Literal["both", "one"]


@dataclass(frozen=True)
class Shown:
    """A pair in one order."""

    pair: Pair
    turned: bool
    """b is Text 1."""

    @property
    def texts(self) -> tuple[str, str]:
        """Text 1 and Text 2."""
        return (self.pair.b, self.pair.a) if self.turned else (self.pair.a, self.pair.b)


def orders_of(pair: Pair, orders: Orders, seed: int) -> list[Shown]:
    """`both`: a first, then b first. `one`: an order drawn from seed and texts, the same for (a, b) and (b, a)."""
    if orders == "both":
        return [Shown(pair, turned=False), Shown(pair, turned=True)]
    low, high = sorted((pair.a, pair.b))
    drawn = hashlib.sha256(json.dumps([seed, context_text(pair.prompt), low, high]).encode()).digest()[0] % 2 == 0
    return [Shown(pair, turned=drawn == (pair.a == low))]


def combine(
    shown: Sequence[Shown],
    verdicts: Sequence[Verdict | None],
    probabilities: tuple[float, float, float] | None = None,
) -> Comparison:
    """One comparison out of the verdicts on a pair's one or two orders.

    Agreement counts, a flip is a tie, and one missing verdict leaves none.
    """
    about_a = {
        order.turned: verdict.mirrored if verdict and order.turned else verdict
        for order, verdict in zip(shown, verdicts, strict=True)
    }
    found = set(about_a.values())
    flipped = len(found) == 2 and None not in found
    return Comparison(about_a.get(False), about_a.get(True), _value(found), flipped, probabilities)


def _value(found: set[Verdict | None]) -> float:
    verdict = found.pop()
    if verdict is None or None in found:
        return math.nan
    return 0.0 if found else verdict.reward
