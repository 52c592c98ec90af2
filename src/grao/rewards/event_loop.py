"""One event loop for everything asynchronous in the rewards: a user's coroutine, requests to a judge."""

import asyncio
from collections.abc import Awaitable
from functools import cache
from threading import Thread
from typing import TypeVar

Result = TypeVar("Result")


def run_awaitable(awaitable: Awaitable[Result]) -> Result:
    """Its result, also from inside a running event loop (a notebook). Ctrl-C cancels it."""

    async def wait() -> Result:
        return await awaitable

    future = asyncio.run_coroutine_threadsafe(wait(), _event_loop())
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
