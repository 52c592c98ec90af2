"""Many questions to one endpoint at once: concurrency, rate limit, repetition, and when to stop."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from grao.rewards.judge.costs import Budget
from grao.rewards.judge.endpoint import Endpoint, Failure, Reply, openai_module, request
from grao.rewards.judge.ledger import Question
from grao.rewards.judge.limits import Breaker, Pacer, backoff

if TYPE_CHECKING:
    from openai.resources.chat import AsyncCompletions

Keep = Callable[[Question, Reply], None]
"""Takes every reply at once, so that nothing is lost when the process dies."""


class JudgeClient:
    """Asks an endpoint.

    Args:
        endpoint: which.
        budget: what it may cost.
        known: a question that any judge can answer. It tells a judge that is down from a question that is at fault.
        keep: takes the replies.

    Raises:
        InputError: if the package openai is not installed.
    """

    def __init__(self, endpoint: Endpoint, budget: Budget, known: Question, keep: Keep) -> None:
        self._openai = openai_module()
        self._endpoint, self._budget, self._known, self._keep = endpoint, budget, known, keep
        self._pacer = Pacer(endpoint.rate_limit)

    async def ask(self, questions: Sequence[Question], patience: float | None = None) -> list[Failure]:
        """Asks all of them; returns why those that were given up failed.

        A question that fails again and again is given up, but not while the judge as a whole is silent: an outage
        within the patience loses nothing.

        Args:
            questions: any number.
            patience: in place of the endpoint's.

        Raises:
            InputError: if key, model or address is wrong.
            RewardUnavailableError: if the judge is down, or the budget used up.
        """
        endpoint = self._endpoint
        # A client a batch: no connection outlives it. Its key must not be empty, even for a server that wants none.
        async with self._openai.AsyncOpenAI(
            api_key=endpoint.key or "none", base_url=endpoint.base_url, max_retries=0, timeout=None
        ) as http:
            completions = http.chat.completions  # imported here, which takes its time, and not at the first request
            breaker = Breaker(str(endpoint), endpoint.patience if patience is None else patience)
            batch = _Batch(completions, endpoint, self._budget, self._pacer, breaker, self._known, self._keep)
            waiting = iter(questions)
            workers = [asyncio.create_task(batch.work(waiting)) for _ in questions[: endpoint.concurrency]]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return batch.failures


@dataclass
class _Batch:
    """What the workers of one batch share."""

    completions: "AsyncCompletions"
    endpoint: Endpoint
    budget: Budget
    pacer: Pacer
    breaker: Breaker
    known: Question
    keep: Keep
    failures: list[Failure] = field(default_factory=list)

    async def work(self, waiting: Iterator[Question]) -> None:
        """Takes one question after another until none is left."""
        for question in waiting:
            if failure := await self._insist(question):
                self.failures.append(failure)

    async def _insist(self, question: Question) -> Failure | None:
        """Asks until there is an answer, or it is the question that is at fault.

        It is when its last two attempts failed while the judge was alive; two, for an outage has two edges.
        """
        endpoint, alive = self.endpoint, self.endpoint.retries == 0
        for attempts in count(1):
            began = time.monotonic()
            failure = await self._attempt(question, first=attempts == 1)
            if failure is None or not failure.repeatable:
                return failure
            self.breaker.failed(failure.reason, failure.wait)
            if attempts >= endpoint.retries:
                before, alive = alive, await self._alive(began)
                if before and alive and attempts > endpoint.retries:
                    return failure
            await asyncio.sleep(min(backoff(attempts, question.key), self.breaker.left()))
        return None

    async def _alive(self, since: float) -> bool:
        """Whether anything has been answered since then; if not, the known question is asked."""
        if not self.breaker.answered_since(since):
            await self._attempt(self.known, first=False)
        return self.breaker.answered_since(since)

    async def _attempt(self, question: Question, first: bool) -> Failure | None:
        """One request; once something has failed, it may not take longer than the patience lasts."""
        content, longest = question.content, self.endpoint.timeout
        seconds = longest if first else min(longest, max(self.breaker.left(), 1.0))
        async with self.budget.request(self.endpoint.bound(content)) as receipt:
            await self.pacer.turn()
            receipt.known = False
            reply = await request(self.completions, self.endpoint, content, seconds)
            if isinstance(reply, Failure):
                receipt.known = not reply.charged
                self.pacer.pause(min(reply.wait or 0.0, self.breaker.left()))
                return reply
            self.keep(question, reply)
            receipt.known = True
        self.breaker.answered()
        return None
