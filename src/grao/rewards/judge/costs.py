"""What a judge costs: from tokens to money, a cap that is never passed, an estimate beforehand.

Prices are the user's, per million tokens; a list of them would be wrong within weeks.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from grao.errors import RewardUnavailableError
from grao.rewards.judge.ledger import Ledger

_FRAME_TOKENS = 64
"""Upper bound of what a chat template and a server's own system message add to a question."""
_BYTES_PER_TOKEN = 4
"""Of English text, roughly."""
_VERDICT_TOKENS = 5
"""Of an answer that holds the verdict and nothing else."""


@dataclass(frozen=True)
class Prices:
    """Of a model, per million tokens."""

    input: float = 0.0
    output: float = 0.0

    def cost(self, input_tokens: float, output_tokens: float) -> float:
        """Of one request or of many."""
        return (self.input * input_tokens + self.output * output_tokens) / 1e6

    def bound(self, question: str, max_tokens: int) -> float:
        """The most that a request can cost: no tokenizer makes more tokens than a text has bytes."""
        return self.cost(len(question.encode()) + _FRAME_TOKENS, max_tokens)


@dataclass(frozen=True)
class Estimate:
    """What a run will ask of a judge if nothing is known already."""

    questions: int
    input_tokens: float
    output_tokens: float
    cost: float

    @classmethod
    def of(cls, comparisons: int, orders: int, input_bytes: float, prices: Prices) -> "Estimate":
        """An estimate from the number of comparisons.

        Args:
            comparisons: pairs to be judged.
            orders: 1 or 2 questions a pair.
            input_bytes: mean length of a rendered question.
            prices: of the judge.
        """
        questions = comparisons * orders
        read, written = questions * input_bytes / _BYTES_PER_TOKEN, questions * _VERDICT_TOKENS
        return cls(questions, read, written, prices.cost(read, written))


@dataclass
class Receipt:
    """Of one request that is under way."""

    known: bool = True
    """What it cost is known: nothing, as before it leaves, or what the ledger says."""


class Budget:
    """Lets a request go only if the cap holds even when everything under way costs the most that it can.

    What is under way stands in the ledger, so the cap holds for all processes of a run together, and after a kill.

    Args:
        cap: the most that may be spent; None: no limit.
        ledger: of the run.
        judge: model name.
    """

    def __init__(self, cap: float | None, ledger: Ledger, judge: str) -> None:
        self.cap, self._ledger, self._judge = cap, ledger, judge
        self._under_way = 0
        self._settled = asyncio.Event()

    @asynccontextmanager
    async def request(self, bound: float) -> AsyncIterator[Receipt]:
        """Waits until a request of at most this cost may go, and holds the sum back while it is under way.

        If its cost is not known at the end (`Receipt`), it may have been charged, and counts with its bound for good.

        Raises:
            RewardUnavailableError: if it never may: nothing of this process is under way, and it could pass the cap.
        """
        reservation = None if self.cap is None else await self._reserved(bound, self.cap)
        receipt = Receipt()
        self._under_way += 1
        try:
            yield receipt
        finally:
            self._under_way -= 1
            if receipt.known and reservation is not None:
                self._ledger.release(reservation)
            self._settled.set()

    async def _reserved(self, bound: float, cap: float) -> int:
        while (reservation := self._ledger.reserve(self._judge, bound, cap)) is None:
            if not self._under_way:
                raise RewardUnavailableError(self._used_up(bound, cap))
            self._settled.clear()
            await self._settled.wait()
        return reservation

    def _used_up(self, bound: float, cap: float) -> str:
        spent, doubt = self._ledger.spent(self._judge), self._ledger.reserved(self._judge)
        doubtful = f" and requests without an answer up to {doubt:.4g}" if doubt else ""
        return (
            f"the judge has cost {spent:.4g}{doubtful}, and with the next question, {bound:.2g} at most, it could pass "
            f"max_cost {cap:g}; raise max_cost, to resume a run in its recipe.yaml"
        )
