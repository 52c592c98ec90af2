"""What a judge costs: from tokens to money, a cap that is never passed, an estimate beforehand.

Prices are the user's, per million tokens; a list of them would be wrong within weeks.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from grao.errors import RewardUnavailableError

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


@dataclass(eq=False)
class Receipt:
    """Of one request that is under way."""

    bound: float
    """The most that it can cost."""
    known: bool = False
    """What it cost is known: nothing, or what the ledger says."""


class Budget:
    """Lets a request go only if the cap holds even when everything under way costs the most that it can.

    Other processes count with what they have paid, not with what they have under way.

    Args:
        cap: the most that may be spent; None: no limit.
        spent: what the run has paid so far, in all processes.
    """

    def __init__(self, cap: float | None, spent: Callable[[], float]) -> None:
        self.cap, self._spent = cap, spent
        self._under_way: list[Receipt] = []
        self._in_doubt = 0.0
        self._settled = asyncio.Event()

    @asynccontextmanager
    async def request(self, bound: float) -> AsyncIterator[Receipt]:
        """Waits until a request of at most this cost may go, and holds the sum back while it is under way.

        Unless its receipt is marked as known at the end, it may have been charged, and counts with its bound.

        Raises:
            RewardUnavailableError: if it never may: nothing is under way any more, and it could pass the cap.
        """
        await self._room(bound)
        receipt = Receipt(bound)
        self._under_way.append(receipt)
        try:
            yield receipt
        finally:
            self._under_way.remove(receipt)
            self._in_doubt += 0.0 if receipt.known else bound
            self._settled.set()

    async def _room(self, bound: float) -> None:
        while self.cap is not None:
            paid = self._spent() + self._in_doubt
            if paid + sum(receipt.bound for receipt in self._under_way) + bound <= self.cap:
                return
            if not self._under_way:
                raise RewardUnavailableError(
                    f"the judge has cost {paid:.4g}, and with the next question, {bound:.2g} at most, it could pass "
                    f"max_cost {self.cap:g}; raise max_cost in the run's recipe.yaml"
                )
            self._settled.clear()
            await self._settled.wait()
