"""Ask an OpenAI-compatible endpoint many questions at once: concurrency, rate limit, retries, and when to give up.

openai's client sends one request and reads its answer. Its retries and timeouts are disabled: here each attempt counts
against rate limit, cost cap and patience, a `Retry-After` applies to all questions, and the timeout covers a whole
attempt, whereas httpx's covers each read. Messages never contain the key.
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
"""Maximum tokens of an answer if no limit is set."""
_FRAME_TOKENS = 64
"""Upper bound of the tokens that a chat template and a server's own system message add to a question."""
_RETRYABLE = (404, 408, 409, 410, 425, 429)
"""Status codes after which a retry may succeed, besides all from 500 on."""
_GATEWAY = (504, 524)
"""Status codes of a gateway that timed out; the server behind it may have answered."""
_LONGEST_WAIT = 30.0
"""Maximum seconds between two attempts at a question."""


class Endpoint:
    """Address, prices and limits of a judge on a server.

    Args:
        config: the judge's section.
        key: API key; None if the server needs none.
    """

    def __init__(self, config: JudgeConfig, key: str | None = None) -> None:
        self.config, self.key, self.mask = config, key, Mask(key)
        self.model, self.base_url = config.model or "", config.base_url or _OPENAI
        settings = {"temperature": config.temperature, "max_tokens": config.max_tokens}
        self.settings = {name: value for name, value in settings.items() if value is not None} | config.extra

    @classmethod
    def from_section(cls, config: JudgeConfig) -> "Endpoint":
        """Build an endpoint with the key from the environment; a replay needs none.

        Raises:
            InputError: if the key is missing or malformed. The message contains the variable's name only.
        """
        variable = None if config.replay else config.api_key_env
        key = os.environ.get(variable, "").strip() if variable else None
        if key == "":
            advice = "set it, or set api_key_env: null if the server needs no key"
            raise InputError(f"judge: the environment variable {variable} is empty or not set; {advice}")
        if key and not (key.isascii() and key.isprintable()):
            problem = "is not a valid key: it contains characters that are not printable ASCII"
            raise InputError(f"judge: the environment variable {variable} {problem}")
        return cls(config, key)

    def __str__(self) -> str:
        return f"{self.model} at {self.base_url}"

    def cost(self, input_tokens: float, output_tokens: float) -> float:
        """Return the cost of tokens at the user's prices. (A built-in price list would soon be outdated.)

        Args:
            input_tokens: of one or many requests.
            output_tokens: likewise.
        """
        return (
            (self.config.price_input or 0.0) * input_tokens + (self.config.price_output or 0.0) * output_tokens
        ) / 1e6

    def most(self, content: str) -> tuple[int, int]:
        """Return the maximum (input, output) tokens of a request: a text has no more tokens than bytes."""
        limits = [self.settings[name] for name in ("max_tokens", "max_completion_tokens") if name in self.settings]
        return len(content.encode()) + _FRAME_TOKENS, max(limits, default=_LONGEST_ANSWER)

    def bound(self, content: str) -> float:
        """Return the maximum cost of a request."""
        return self.cost(*self.most(content))


@dataclass(frozen=True)
class Failure:
    """Why a request got no answer."""

    reason: str
    """One line."""
    repeatable: bool = True
    """Whether a retry may succeed."""
    wait: float | None = None
    """Seconds that the server asks to wait before a retry."""
    charged: bool = True
    """Whether the server may have done the work, and charge for it."""


class JudgeClient:
    """Asks an endpoint, and writes each answer to the ledger immediately, so that none is lost if the process dies.

    Args:
        endpoint: the judge's address and limits.
        ledger: stores the answers.
        known: a question that any judge can answer. It distinguishes a judge that is down from a faulty question.

    Raises:
        InputError: if the package openai is not installed.
    """

    def __init__(self, endpoint: Endpoint, ledger: Ledger, known: Question) -> None:
        try:
            import openai
        except ImportError as error:
            raise InputError(f"a judge on a server requires the package openai: {installing('judge')}") from error
        self.openai = openai
        self.endpoint, self.ledger, self.known = endpoint, ledger, known
        self.budget = Budget(endpoint.config.max_cost, ledger, endpoint.model)
        self.has_answered = False
        """Whether it has answered before, so that key, model and address must be right."""
        self._gap = 60.0 / endpoint.config.rate_limit if endpoint.config.rate_limit else 0.0
        self._next = 0.0

    async def ask(self, questions: Sequence[Question], patience: float | None = None) -> list[Failure]:
        """Ask all questions.

        A question that keeps failing is abandoned, but not while the judge answers nothing at all: no question is lost
        to an outage that is shorter than the patience.

        Args:
            questions: any number.
            patience: seconds, replaces the endpoint's.

        Returns:
            The failure of each abandoned question.

        Raises:
            InputError: if key, model or address is wrong.
            RewardUnavailableError: if the judge is down or requires payment, or the budget is spent.
        """
        endpoint = self.endpoint
        key = endpoint.key or "none"  # must not be empty, even for a server that needs none
        try:  # one client per batch: no connection outlives it
            bounded = bounded_client()
        except (ImportError, OSError, ValueError) as error:
            problem = endpoint.mask.line(str(error))
            raise InputError(f"judge {endpoint}: bad proxy or certificate in the environment: {problem}") from error
        async with self.openai.AsyncOpenAI(
            api_key=key, base_url=endpoint.base_url, max_retries=0, timeout=None, http_client=bounded
        ) as http:
            completions = http.chat.completions  # import it now: this is slow, and must not delay a request
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
        """Wait until the rate limit allows the next request."""
        while (wait := self._next - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        self._next = time.monotonic() + self._gap

    def pause(self, seconds: float) -> None:
        """Send nothing for some seconds: a server's `Retry-After` applies to all requests."""
        self._next = max(self._next, time.monotonic() + seconds)


class _Batch:
    """State shared by the workers of one `JudgeClient.ask`: failures, and the time of the judge's last answer."""

    def __init__(self, client: JudgeClient, completions: "AsyncCompletions", patience: float) -> None:
        self._client, self._endpoint, self._create = client, client.endpoint, completions.with_raw_response.create
        self._patience, self._heard = patience, time.monotonic()
        self.failures: list[Failure] = []

    async def work(self, waiting: Iterator[Question]) -> None:
        """Ask one question after another until none is left."""
        for question in waiting:
            if failure := await self._ask_until_answered(question):
                self.failures.append(failure)

    async def _ask_until_answered(self, question: Question) -> Failure | None:
        """Retry until there is an answer, or the question itself must be at fault.

        It is at fault if its last two attempts failed while the judge was alive. One such attempt is not enough: it may
        overlap the beginning or the end of an outage.
        """
        retries, alive = self._endpoint.config.retries, self._endpoint.config.retries == 0
        for attempts in count(1):
            began = time.monotonic()
            failure = await self._attempt(question, first=attempts == 1)
            if failure is None or not failure.repeatable:
                return failure
            self._check_patience(failure)
            if attempts >= retries:
                before, alive = alive, await self._has_answered(began)
                if before and alive and attempts > retries:
                    return failure
            await asyncio.sleep(min(backoff(attempts, question.key), self._left()))
        return None

    async def _has_answered(self, since: float) -> bool:
        """Whether the judge has answered anything since then; if not, ask the known question."""
        if self._heard <= since:
            await self._attempt(self._client.known, first=False)
        return self._heard > since

    async def _attempt(self, question: Question, first: bool) -> Failure | None:
        """Make one request; a retry may not take longer than the patience lasts."""
        client, content, seconds = self._client, question.content, self._endpoint.config.timeout
        if not first:
            seconds = min(seconds, max(self._left(), 1.0))
        await client.turn()
        began = time.monotonic()
        reservation = await client.budget.reserve(self._endpoint.bound(content), seconds)
        if first and time.monotonic() - began > 1.0:
            self._heard = time.monotonic()  # the budget caused this wait, not the judge
        known = False  # the cost is known only from the answer
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
        self._heard, client.has_answered = time.monotonic(), True
        return None

    async def _request(self, content: str, seconds: float) -> JudgeAnswer | Failure:
        """Make one request, with a timeout in seconds.

        Raises:
            InputError: if the server rejects the key, does not know model or address, or redirects.
            RewardUnavailableError: if it requires payment.
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
            problem = "the connection was lost" if connected else "cannot connect"
            return Failure(f"{problem}: {endpoint.mask.line(str(cause) or repr(cause))}", charged=connected)
        except Exception as error:  # servers can make these libraries fail in too many ways to list
            return Failure(f"unreadable answer: {endpoint.mask.line(f'{type(error).__name__}: {error}')}")
        else:
            response = raw.http_response
        reply = Reply.of(response)
        if reply.completion:
            return _answer(reply.completion, content, endpoint)
        message = endpoint.mask.line(reply.message)
        if reply.status == 0:
            return Failure(message)
        if reply.status in range(200, 300):
            hint = "check the end of base_url, usually /v1"
            return Failure(f"the answer is not a chat completion but {repr(message) if message else 'empty'}; {hint}")
        return self._refused(reply.status, f"{reply.status} {message}".strip(), response.headers)

    def _refused(self, status: int, reason: str, headers: Mapping[str, str]) -> Failure:
        """Handle an error status: before the first answer the setup is at fault, later it may be the question."""
        judge, has_answered = f"judge {self._endpoint}", self._client.has_answered
        if status == 401 or (status == 403 and not has_answered and not self._client.ledger.find([self._client.known])):
            fault = "rejects the key" if self._endpoint.key else "requires a key (set api_key_env)"
            raise InputError(f"{judge} {fault}: {reason}")
        if status == 402:
            raise RewardUnavailableError(f"{judge} requires payment: {reason}")
        if status in (404, 410) and not has_answered:
            raise InputError(f"{judge} was not found: {reason}; check model and base_url (which usually ends in /v1)")
        if status in range(300, 400) and not has_answered:
            target = self._endpoint.mask.line(headers.get("location", "")).removesuffix("/chat/completions")
            hint = "if that address is right, set it as base_url"
            raise InputError(f"{judge} redirects to {target!r} ({status}); redirects are not followed: {hint}")
        repeatable = status in _RETRYABLE or status >= 500 or status < 400
        return Failure(reason, repeatable, _retry_after(headers) if repeatable else None, charged=status in _GATEWAY)

    def _left(self) -> float:
        """Return the seconds until the patience is exhausted."""
        return max(self._heard + self._patience - time.monotonic(), 0.0)

    def _check_patience(self, failure: Failure) -> None:
        """Check that the patience is not exhausted.

        Raises:
            RewardUnavailableError: if it is, or if the judge asks to wait for longer than the patience.
        """
        left, wait = self._left(), failure.wait or 0.0
        if left == 0 or wait > self._patience:
            too_long = f"it asks to wait {wait:.0f} s, but patience is {self._patience:g} s"
            problem = too_long if left else f"no answer for {self._patience:g} s"
            raise RewardUnavailableError(f"judge {self._endpoint}: {problem}; last error: {failure.reason}")


def backoff(attempts: int, key: str) -> float:
    """Return the seconds to wait after failed attempts: doubling, with jitter derived from the question's key.

    Args:
        attempts: number of failed attempts.
        key: SHA-256 (hex) of the question.
    """
    jitter = 0.5 + int(key[:4], 16) / 2**17  # 0.5 to 1
    return min(2.0 ** (attempts - 1), _LONGEST_WAIT) * jitter


def _answer(completion: Completion, content: str, endpoint: Endpoint) -> JudgeAnswer:
    """Return the answer for the ledger: storable, with the key masked, its cost at most the question's maximum."""
    text, ending = endpoint.mask(storable(completion.text)), endpoint.mask.line(completion.ending)
    # If the server does not report tokens: at most one per byte.
    sizes = len(content.encode()), len(text.encode()) + completion.thoughts
    read, written = (
        min(counted if type(counted) is int and counted > 0 else size, limit)
        for counted, size, limit in zip(completion.usage, sizes, endpoint.most(content), strict=True)
    )
    withheld = ending in ("refusal", "content_filter")
    verdict = None if withheld else parse_verdict(completion.text, cut=ending == "length")
    return JudgeAnswer(text, ending, verdict, read, written, endpoint.cost(read, written))


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a `Retry-After` header, which contains seconds or a date; None if it has none."""
    value = headers.get("retry-after", "")
    try:
        date = parsedate_to_datetime(value) if value[:1].isalpha() else None
        seconds = (date - datetime.now(UTC)).total_seconds() if date else float(value)
    except (ValueError, TypeError):
        return None
    return seconds if isfinite(seconds) and seconds > 0 else None
