"""One request to an OpenAI-compatible endpoint: a reply, or in one line why there is none. No key ever is in that line.

The retries and timeouts of openai's client are turned off. Here every attempt counts on its own against rate limit,
cost cap and patience (`client.py`), and is bounded as a whole, while httpx bounds each read.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from types import ModuleType
from typing import TYPE_CHECKING, Any

from grao.errors import InputError
from grao.rewards.judge.costs import Prices

if TYPE_CHECKING:
    from openai import APIConnectionError, APIStatusError
    from openai.resources.chat import AsyncCompletions

_SHOWN = 200
"""Longest text of a server that is repeated in a message, in characters."""
_LONGEST = 100_000
"""Tokens that an answer without a limit of ours may have."""
_AGAIN = (408, 409, 425, 429)
"""Status codes after which another attempt may succeed, besides all from 500 on."""


@dataclass(frozen=True)
class Endpoint:
    """Where a judge is reached, and how patiently."""

    model: str
    base_url: str
    key: str | None = field(default=None, repr=False)
    """None: the server wants none."""
    settings: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0.0, "max_tokens": 512})
    """Further fields of each request."""
    prices: Prices = field(default_factory=Prices)
    concurrency: int = 32
    """Requests under way at once."""
    rate_limit: int | None = None
    """Requests a minute."""
    timeout: float = 60.0
    """Seconds for one attempt, all of it."""
    retries: int = 5
    """Attempts at a question after the first."""
    patience: float = 300.0
    """Seconds without any answer until the judge counts as down."""

    def __str__(self) -> str:
        return f"{self.model} at {self.base_url}"

    def bound(self, content: str) -> float:
        """The most that a request can cost."""
        limits = [self.settings[name] for name in ("max_tokens", "max_completion_tokens") if name in self.settings]
        return self.prices.bound(content, max(limits, default=_LONGEST))


@dataclass(frozen=True)
class Reply:
    """What came back."""

    text: str
    ending: str
    """Why the judge stopped: `stop`, `length`, `refusal`, ..."""
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True)
class Failure:
    """Why a request brought no reply."""

    reason: str
    """One line."""
    repeatable: bool = True
    """Another attempt may succeed."""
    wait: float | None = None
    """Seconds that the server asks to wait."""
    charged: bool = True
    """The server may have done the work all the same."""


def openai_module() -> ModuleType:
    """The package, which is an extra.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import openai
    except ImportError as error:
        raise InputError("a judge on a server needs the package openai: pip install 'grao[judge]'") from error
    return openai


async def request(completions: "AsyncCompletions", endpoint: Endpoint, content: str, seconds: float) -> Reply | Failure:
    """One attempt.

    Args:
        completions: of a client without retries and timeouts of its own.
        endpoint: whom to ask.
        content: the question.
        seconds: for all of it.

    Raises:
        InputError: if the server refuses the key, or knows no such model or address.
    """
    openai = openai_module()
    try:
        async with asyncio.timeout(seconds):
            completion = await completions.create(
                model=endpoint.model, messages=[{"role": "user", "content": content}], extra_body=endpoint.settings
            )
    except TimeoutError:
        return Failure(f"no answer within {seconds:.3g} s")
    except openai.APIStatusError as error:
        return _refused(error, endpoint)
    except openai.APIConnectionError as error:
        return _disconnected(error, endpoint)
    except (openai.OpenAIError, ValueError) as error:
        return Failure(f"unreadable answer: {_line(str(error), endpoint)}")
    return _reply(completion, content)


def _reply(completion: Any, content: str) -> Reply | Failure:
    """Defensive, for openai's client checks no types: anything may stand where the protocol has something else."""
    try:
        choice = completion.choices[0]
        refusal, text = getattr(choice.message, "refusal", None), choice.message.content or ""
        ending = "refusal" if refusal else str(choice.finish_reason or "stop")
        said = str(refusal or text)
    except (AttributeError, IndexError, TypeError):
        return Failure("the answer is no chat completion; does base_url end as the server wants it, mostly /v1?")
    read = getattr(completion.usage, "prompt_tokens", None)
    written = getattr(completion.usage, "completion_tokens", None)
    if not isinstance(read, int) or not isinstance(written, int):  # not counted by the server: at most one a byte
        read, written = len(content.encode()), len(said.encode())
    return Reply(said, ending, read, written)


def _refused(error: "APIStatusError", endpoint: Endpoint) -> Failure:
    status, body = error.status_code, error.body
    words = body.get("message") if isinstance(body, dict) else None
    reason = _line(f"{status} {words}" if words else error.message, endpoint)
    if status in (401, 403):
        fault = "refuses the key" if endpoint.key else "wants a key, see api_key_env"
        raise InputError(f"judge {endpoint} {fault}: {reason}") from None
    if status == 404:
        hint = "check model and base_url (it mostly ends in /v1)"
        raise InputError(f"judge {endpoint} is not there: {reason}; {hint}") from None
    repeatable = status in _AGAIN or status >= 500
    return Failure(reason, repeatable, _retry_after(error.response.headers), charged=False)


def _disconnected(error: "APIConnectionError", endpoint: Endpoint) -> Failure:
    cause = error.__cause__ or error
    connected = not type(cause).__name__.startswith("Connect")
    reason = f"{'the connection was cut' if connected else 'cannot connect'}: {_line(str(cause), endpoint)}"
    return Failure(reason, charged=connected)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; the header holds seconds or a date."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return seconds if isfinite(seconds) and seconds > 0 else None


def _line(text: str, endpoint: Endpoint) -> str:
    """One short line without the key, which a server may well repeat."""
    clean = text.replace(endpoint.key, "***") if endpoint.key else text
    return " ".join(clean.split())[:_SHOWN]
