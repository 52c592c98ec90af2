"""Call a function periodically while a block of code runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread


@contextmanager
def every(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Context manager that calls a function periodically in a background thread, until the block ends.

    Args:
        seconds: time between calls.
        call: the function.
    """
    ended = Event()

    def run() -> None:
        while not ended.wait(seconds):
            call()

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
