"""Many questions to an OpenAI-compatible endpoint at once: concurrency, rate limit, repetition, and when to stop.

openai's client sends one request and reads its answer. Its retries and timeouts are turned off: here every attempt
counts on its own against rate limit, cost cap and patience, a `Retry-After` holds for all questions, and an attempt is
bounded as a whole, while httpx bounds each read. No key is ever in a message.
"""

import asyncio
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from math import isfinite
from typing import TYPE_CHECKING, Any

from grao.command import installing
from grao.config.rewards import JudgeConfig
from grao.errors import InputError, RewardUnavailableError
from grao.rewards.judge.ledger import Budget, JudgeAnswer, Ledger, Question
from grao.rewards.judge.reply import Completion, Mask, Reply, bounded_client, storable
from grao.rewards.judge.wording import parse_verdict

if TYPE_CHECKING:
    from openai.resources.chat import AsyncCompletions

_OPENAI = "https://api.openai.com/v1"
_LONGEST_ANSWER = 100_000
"""Tokens that an answer without a limit of ours may have."""
_FRAME_TOKENS = 64
"""Upper bound of what a chat template and a server's own system message add to a question."""
_REPEATABLE = (404, 408, 409, 410, 425, 429)
"""Status codes after which another attempt may succeed, besides all from 500 on."""
_GATEWAY = (504, 524)
"""Status codes of a gateway that stopped waiting for a server which may have answered."""
_LONGEST_WAIT = 30.0
"""Seconds between two attempts at a question, at most."""


class Endpoint:
    """Where a judge is reached, at what price, and how patiently.

    Args:
        config: the section of a judge on a server.
        key: None: the server wants none.
    """

    def __init__(self, config: JudgeConfig, key: str | None = None) -> None:
        self.config, self.key, self.mask = config, key, Mask(key)
        self.model, self.base_url = config.model or "", config.base_url or _OPENAI
        settings = {"temperature": config.temperature, "max_tokens": config.max_tokens}
        self.settings = {name: value for name, value in settings.items() if value is not None} | config.extra

    @classmethod
    def from_section(cls, config: JudgeConfig) -> "Endpoint":
        """With the key from the environment; a replay needs none.

        Raises:
            InputError: if there is none, or it can be none. The message holds the variable's name only.
        """
        variable = None if config.replay else config.api_key_env
        key = os.environ.get(variable, "").strip() if variable else None
        if key == "":
            advice = "set it, or api_key_env: null for a server without"
            raise InputError(f"judge: the environment variable {variable} holds no key; {advice}")
        if key and not (key.isascii() and key.isprintable()):
            holds = f"what the environment variable {variable} holds"
            raise InputError(f"judge: {holds} is no key: it has unprintable characters")
        return cls(config, key)

    def __str__(self) -> str:
        return f"{self.model} at {self.base_url}"

    def cost(self, input_tokens: float, output_tokens: float) -> float:
        """Of one request or of many. Prices are the user's: a list of them would be wrong within weeks."""
        return (
            (self.config.price_input or 0.0) * input_tokens + (self.config.price_output or 0.0) * output_tokens
        ) / 1e6

    def most(self, content: str) -> tuple[int, int]:
        """Tokens that a request can take and bring at most: no tokenizer makes more tokens than a text has bytes."""
        limits = [self.settings[name] for name in ("max_tokens", "max_completion_tokens") if name in self.settings]
        return len(content.encode()) + _FRAME_TOKENS, max(limits, default=_LONGEST_ANSWER)

    def bound(self, content: str) -> float:
        """The most that a request can cost."""
        return self.cost(*self.most(content))


@dataclass(frozen=True)
class Failure:
    """Why a request brought no answer."""

    reason: str
    """One line."""
    repeatable: bool = True
    """Another attempt may succeed."""
    wait: float | None = None
    """Seconds that the server asks to wait."""
    charged: bool = True
    """The server may have done the work all the same."""


class JudgeClient:
    """Asks an endpoint; every answer goes into the ledger at once, so that nothing is lost when the process dies.

    Args:
        endpoint: which.
        ledger: takes the answers.
        known: a question that any judge can answer. It tells a judge that is down from a question that is at fault.

    Raises:
        InputError: if the package openai is not installed.
    """

    def __init__(self, endpoint: Endpoint, ledger: Ledger, known: Question) -> None:
        try:
            import openai
        except ImportError as error:
            raise InputError(f"a judge on a server needs the package openai: {installing('judge')}") from error
        self.openai = openai
        self.endpoint, self.ledger, self.known = endpoint, ledger, known
        self.budget = Budget(endpoint.config.max_cost, ledger, endpoint.model)
        self.heard = False
        """It has answered before, so that key, model and address are right."""
        self._gap = 60.0 / endpoint.config.rate_limit if endpoint.config.rate_limit else 0.0
        self._next = 0.0

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
        endpoint = self.endpoint
        key = endpoint.key or "none"  # must not be empty, even for a server that wants none
        try:  # a client a batch: no connection outlives it
            bounded = bounded_client()
        except (ImportError, OSError, ValueError) as error:
            problem = endpoint.mask.line(str(error))
            raise InputError(f"judge {endpoint}: proxy or certificate in the environment: {problem}") from error
        async with self.openai.AsyncOpenAI(
            api_key=key, base_url=endpoint.base_url, max_retries=0, timeout=None, http_client=bounded
        ) as http:
            completions = http.chat.completions  # imported here, which takes its time, and not at the first request
            endpoint.mask.watch()
            batch = _Batch(self, completions, endpoint.config.patience if patience is None else patience)
            waiting = iter(questions)
            workers = [asyncio.create_task(batch.work(waiting)) for _ in questions[: endpoint.config.concurrency]]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return batch.failures

    async def turn(self) -> None:
        """Waits until the rate limit lets the next request leave."""
        while (wait := self._next - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        self._next = time.monotonic() + self._gap

    def pause(self, seconds: float) -> None:
        """Nothing leaves for a while: a server that says `Retry-After` does not mean one request only."""
        self._next = max(self._next, time.monotonic() + seconds)


class _Batch:
    """What the workers of one `JudgeClient.ask` share: the failures, and for how long the judge has been silent."""

    def __init__(self, client: JudgeClient, completions: "AsyncCompletions", patience: float) -> None:
        self._client, self._endpoint, self._create = client, client.endpoint, completions.with_raw_response.create
        self._patience, self._heard = patience, time.monotonic()
        self.failures: list[Failure] = []

    async def work(self, waiting: Iterator[Question]) -> None:
        """Takes one question after another until none is left."""
        for question in waiting:
            if failure := await self._insist(question):
                self.failures.append(failure)

    async def _insist(self, question: Question) -> Failure | None:
        """Asks until there is an answer, or it is the question that is at fault.

        It is when its last two attempts failed while the judge was alive; two, for an outage has two edges.
        """
        retries, alive = self._endpoint.config.retries, self._endpoint.config.retries == 0
        for attempts in count(1):
            began = time.monotonic()
            failure = await self._attempt(question, first=attempts == 1)
            if failure is None or not failure.repeatable:
                return failure
            self._check_patience(failure)
            if attempts >= retries:
                before, alive = alive, await self._alive(began)
                if before and alive and attempts > retries:
                    return failure
            await asyncio.sleep(min(backoff(attempts, question.key), self._left()))
        return None

    async def _alive(self, since: float) -> bool:
        """Whether anything has been answered since then; if not, the known question is asked."""
        if self._heard <= since:
            await self._attempt(self._client.known, first=False)
        return self._heard > since

    async def _attempt(self, question: Question, first: bool) -> Failure | None:
        """One request; once something has failed, it may not take longer than the patience lasts."""
        client, content, seconds = self._client, question.content, self._endpoint.config.timeout
        if not first:
            seconds = min(seconds, max(self._left(), 1.0))
        await client.turn()
        began = time.monotonic()
        reservation = await client.budget.reserve(self._endpoint.bound(content), seconds)
        if first and time.monotonic() - began > 1.0:
            self._heard = time.monotonic()  # it was not the judge that was silent
        known = False  # what it costs is known only from the answer
        try:
            answer = await self._request(content, seconds)
            if isinstance(answer, Failure):
                known = not answer.charged
                client.pause(min(answer.wait or 0.0, self._left()))
                return answer
            client.ledger.add(question, answer)
            known = True
        finally:
            client.budget.settle(reservation, known)
        self._heard, client.heard = time.monotonic(), True
        return None

    async def _request(self, content: str, seconds: float) -> JudgeAnswer | Failure:
        """One attempt, which may take so many seconds in all.

        Raises:
            InputError: if the server refuses the key, knows no such model or address, or sends on to another.
            RewardUnavailableError: if it wants to be paid.
        """
        openai, endpoint = self._client.openai, self._endpoint
        try:
            async with asyncio.timeout(seconds):
                raw = await self._create(
                    model=endpoint.model, messages=[{"role": "user", "content": content}], extra_body=endpoint.settings
                )
        except TimeoutError:
            return Failure(f"no answer within {seconds:.3g} s")
        except openai.APIStatusError as error:
            response: Any = error.response
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            connected = not type(cause).__name__.startswith("Connect")
            problem = "the connection was cut" if connected else "cannot connect"
            return Failure(f"{problem}: {endpoint.mask.line(str(cause) or repr(cause))}", charged=connected)
        except Exception as error:  # no list is complete of what a server can make these libraries stumble over
            return Failure(f"unreadable answer: {endpoint.mask.line(f'{type(error).__name__}: {error}')}")
        else:
            response = raw.http_response
        reply = Reply.of(response)
        if reply.completion:
            return _answer(reply.completion, content, endpoint)
        said = endpoint.mask.line(reply.said)
        if reply.status == 0:
            return Failure(said)
        if reply.status in range(200, 300):
            hint = "does base_url end as the server wants it, mostly /v1?"
            return Failure(f"the answer is {repr(said) if said else 'empty'} and no chat completion; {hint}")
        return self._refused(reply.status, f"{reply.status} {said}".strip(), response.headers)

    def _refused(self, status: int, reason: str, headers: Mapping[str, str]) -> Failure:
        """A status without success: what never worked is the user's to mend, later it may be the question's fault."""
        judge, heard = f"judge {self._endpoint}", self._client.heard
        if status == 401 or (status == 403 and not heard and not self._client.ledger.find([self._client.known])):
            fault = "refuses the key" if self._endpoint.key else "wants a key, see api_key_env"
            raise InputError(f"{judge} {fault}: {reason}")
        if status == 402:
            raise RewardUnavailableError(f"{judge} wants to be paid: {reason}")
        if status in (404, 410) and not heard:
            raise InputError(f"{judge} is not there: {reason}; check model and base_url (it mostly ends in /v1)")
        if status in range(300, 400) and not heard:
            target = self._endpoint.mask.line(headers.get("location", "")).removesuffix("/chat/completions")
            hint = "nothing is sent there; if it is right, set it as base_url"
            raise InputError(f"{judge} redirects to {target!r} ({status}), which is not followed: {hint}")
        repeatable = status in _REPEATABLE or status >= 500 or status < 400
        return Failure(reason, repeatable, _retry_after(headers) if repeatable else None, charged=status in _GATEWAY)

    def _left(self) -> float:
        """Seconds until the patience is over."""
        return max(self._heard + self._patience - time.monotonic(), 0.0)

    def _check_patience(self, failure: Failure) -> None:
        """Raises: RewardUnavailableError if the patience is over, or the judge asks to wait for longer than that."""
        left, wait = self._left(), failure.wait or 0.0
        if left == 0 or wait > self._patience:
            asked = f"it asks to wait {wait:.0f} s, and patience is {self._patience:g} s"
            problem = asked if left else f"no answer for {self._patience:g} s"
            raise RewardUnavailableError(f"judge {self._endpoint}: {problem}; the last request: {failure.reason}")


def backoff(attempts: int, key: str) -> float:
    """Seconds to wait after some failed attempts, doubling.

    Spread by the question's key, so that not all questions come back at the same moment.
    """
    spread = 0.5 + int(key[:4], 16) / 2**17  # 0.5 to 1
    return min(2.0 ** (attempts - 1), _LONGEST_WAIT) * spread


def _answer(completion: Completion, content: str, endpoint: Endpoint) -> JudgeAnswer:
    """As it goes into the ledger: storable, without the key, at a cost within what the question can cost."""
    text, ending = endpoint.mask(storable(completion.text)), endpoint.mask.line(completion.ending)
    sizes = len(content.encode()), len(text.encode()) + completion.thoughts  # what is not counted: at most one a byte
    read, written = (
        min(counted if type(counted) is int and counted > 0 else size, limit)
        for counted, size, limit in zip(completion.usage, sizes, endpoint.most(content), strict=True)
    )
    withheld = ending in ("refusal", "content_filter")
    verdict = None if withheld else parse_verdict(completion.text, cut=ending == "length")
    return JudgeAnswer(text, ending, verdict, read, written, endpoint.cost(read, written))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; the header holds seconds or a date."""
    value = headers.get("retry-after", "")
    try:
        date = parsedate_to_datetime(value) if value[:1].isalpha() else None
        seconds = (date - datetime.now(UTC)).total_seconds() if date else float(value)
    except (ValueError, TypeError):
        return None
    return seconds if isfinite(seconds) and seconds > 0 else None
