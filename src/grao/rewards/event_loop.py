"""One event loop for everything asynchronous in the rewards: a user's coroutine, requests to a judge."""

import asyncio
from collections.abc import Awaitable
from concurrent.futures import Future
from functools import cache
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")


def start_awaitable(awaitable: Awaitable[Result]) -> Future[Result]:
    """Lets it run beside the caller."""

    async def wait() -> Result:
        return await awaitable

    return asyncio.run_coroutine_threadsafe(wait(), _event_loop())


def run_awaitable(awaitable: Awaitable[Result]) -> Result:
    """Its result, also from inside a running event loop (a notebook). Ctrl-C cancels it."""
    return result_of(start_awaitable(awaitable))


def result_of(future: Future[Result]) -> Result:
    """Waits for what was started. Ctrl-C cancels it."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """The one loop of all calls: the semaphores and clients that a reward keeps are bound to the loop they began in."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="grao-rewards", daemon=True).start()
    return loop
