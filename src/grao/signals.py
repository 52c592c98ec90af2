"""The signals that end a program from outside: Ctrl-C (SIGINT), SIGTERM from a scheduler, SIGHUP from a terminal."""

import os
import signal
import sys
import threading
from _thread import interrupt_main
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_TERM = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
Handler = Callable[[int, FrameType | None], None]


@contextmanager
def handled(handler: Handler, interrupt: bool = True) -> Iterator[None]:
    """Within it a handler gets the signals; outside of the main thread, where Python knows none, nobody does.

    SIGTERM and SIGHUP stay ignored where they are, as under `nohup`. After SIGHUP the terminal is gone, and what is
    still written to it goes nowhere.

    Args:
        handler: takes the number of the signal and the frame.
        interrupt: whether Ctrl-C is among the signals, ignored or not.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if number == getattr(signal, "SIGHUP", None):
            for stream in terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        handler(number, frame)

    terminals = [stream for stream in (1, 2) if os.isatty(stream)]  # afterwards nobody can tell
    numbers = [number for number in _TERM if signal.getsignal(number) != signal.SIG_IGN]
    numbers += [signal.SIGINT] * interrupt
    main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, handle) for number in numbers} if main else {}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)


@contextmanager
def insistent() -> Iterator[None]:
    """Within it, a Ctrl-C that arrives in a destructor comes again: there Python reports the exception and drops it."""

    def again() -> None:
        if hasattr(signal, "pthread_kill") and (main := threading.main_thread().ident):
            signal.pthread_kill(main, signal.SIGINT)  # also wakes a blocking call, which interrupt_main does not
        else:
            interrupt_main()

    def hook(dropped: "sys.UnraisableHookArgs") -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            threading.Timer(0.05, again).start()
        else:
            previous(dropped)

    previous, sys.unraisablehook = sys.unraisablehook, hook
    try:
        yield
    finally:
        sys.unraisablehook = previous


def stop(number: int, frame: FrameType | None) -> None:
    """A handler that ends what is under way, as Ctrl-C does.

    Raises:
        KeyboardInterrupt: always.
    """
    raise KeyboardInterrupt
