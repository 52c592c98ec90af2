"""Signals that end a program: SIGINT (Ctrl-C), SIGTERM from a scheduler, SIGHUP when the terminal closes."""

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
    """Context manager that handles termination signals. It has no effect outside the main thread.

    Signals that are ignored at the start, as SIGHUP is under `nohup`, stay ignored. After SIGHUP the terminal is gone,
    so output to it is discarded.

    Args:
        handler: called with the signal number and the frame.
        interrupt: whether to handle Ctrl-C too, even if it is ignored at the start.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if number == getattr(signal, "SIGHUP", None):
            for stream in terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        handler(number, frame)

    terminals = [stream for stream in (1, 2) if os.isatty(stream)]  # cannot be determined after SIGHUP
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
def resend_lost_interrupts() -> Iterator[None]:
    """Context manager that sends a Ctrl-C again if it arrived while a destructor was running.

    Python reports an exception in a destructor and then drops it, so the interrupt would be lost.
    """

    def resend() -> None:
        if hasattr(signal, "pthread_kill") and (main := threading.main_thread().ident):
            signal.pthread_kill(main, signal.SIGINT)  # also wakes a blocking call, which interrupt_main does not
        else:
            interrupt_main()

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            threading.Timer(0.05, resend).start()
        else:
            previous(unraisable)

    previous, sys.unraisablehook = sys.unraisablehook, hook
    try:
        yield
    finally:
        sys.unraisablehook = previous


def stop(number: int, frame: FrameType | None) -> None:
    """Signal handler that interrupts the program, as Ctrl-C does.

    Raises:
        KeyboardInterrupt: always.
    """
    raise KeyboardInterrupt
