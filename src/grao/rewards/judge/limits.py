"""How fast a judge is asked, and how long it may stay silent."""

import asyncio
import time

from grao.errors import RewardUnavailableError

_LONGEST_WAIT = 30.0
"""Seconds between two attempts at a question, at most."""


class Pacer:
    """When the next request may leave.

    Args:
        per_minute: requests a minute; None: no limit.
    """

    def __init__(self, per_minute: int | None = None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def turn(self) -> None:
        """Waits for it."""
        while (wait := self._next - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        self._next = time.monotonic() + self._gap

    def pause(self, seconds: float) -> None:
        """Nothing leaves for a while: a server that says `Retry-After` does not mean one request only."""
        self._next = max(self._next, time.monotonic() + seconds)


class Breaker:
    """Stops the run when a judge has been silent for too long.

    Args:
        judge: model and address, for the message.
        patience: seconds without any answer.
    """

    def __init__(self, judge: str, patience: float) -> None:
        self._judge, self._patience = judge, patience
        self._heard = time.monotonic()

    def answered(self) -> None:
        """An answer arrived."""
        self._heard = time.monotonic()

    def answered_since(self, moment: float) -> bool:
        """Whether one arrived after a moment of the monotonic clock."""
        return self._heard > moment

    def left(self) -> float:
        """Seconds until the patience is over."""
        return max(self._heard + self._patience - time.monotonic(), 0.0)

    def failed(self, reason: str, asked_to_wait: float | None) -> None:
        """A request failed.

        Raises:
            RewardUnavailableError: if that was enough, or the judge asks to wait for longer than that.
        """
        if self.left() == 0:
            self._stop(f"no answer for {self._patience:g} s", reason)
        if asked_to_wait is not None and asked_to_wait > self._patience:
            self._stop(f"it asks to wait {asked_to_wait:.0f} s, and patience is {self._patience:g} s", reason)

    def _stop(self, finding: str, reason: str) -> None:
        raise RewardUnavailableError(f"judge {self._judge}: {finding}; the last request: {reason}")


def backoff(attempts: int, key: str) -> float:
    """Seconds to wait after some failed attempts, doubling; spread by the question's key so that not all come back
    at the same moment."""
    spread = 0.5 + int(key[:4], 16) / 2**17  # 0.5 to 1
    return min(2.0 ** (attempts - 1), _LONGEST_WAIT) * spread
