"""Something that is done again and again while something else lasts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread


@contextmanager
def every(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Within it, `call` is called every so many seconds, in a thread of its own; not again after its end."""
    ended = Event()

    def go_on() -> None:
        while not ended.wait(seconds):
            call()

    caller = Thread(target=go_on, daemon=True)
    caller.start()
    try:
        yield
    finally:
        ended.set()
        caller.join()
