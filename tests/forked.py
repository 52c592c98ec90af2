"""Processes that begin as copies of this one: the libraries are loaded already, which takes seconds otherwise."""

import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable

from accelerate.state import AcceleratorState, GradientState, PartialState


class Forked:
    """A process that runs a function and ends; what it returns is the exit code, None is 0.

    Args:
        run: the function.
        environment: variables to set.
    """

    def __init__(self, run: Callable[[], int | None], **environment: str) -> None:
        self._streams = [os.memfd_create(name) for name in ("out", "err")]
        self.returncode: int | None = None
        self.out = self.err = ""
        """What it wrote, once it has ended."""
        with warnings.catch_warnings(action="ignore"):  # of forking where there are threads
            self.pid = os.fork()
        if self.pid == 0:
            self._become(run, environment)

    def _become(self, run: Callable[[], int | None], environment: dict[str, str]) -> None:
        code = 1
        try:
            os.environ.update(environment)
            for number, stream in enumerate(self._streams, start=1):
                os.dup2(stream, number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            warnings.simplefilter("default")
            for state in (AcceleratorState, GradientState, PartialState):
                state._shared_state.clear()
            code = run() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        """The exit code, or minus the number of the signal that ended it; None while it runs."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
                self.out, self.err = map(_text, self._streams)
        return self.returncode

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = 120.0) -> int:
        """Until it ends; its exit code. One that does not is killed."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode


def _text(stream: int) -> str:
    with os.fdopen(stream, "rb") as file:
        file.seek(0)
        return file.read().decode()


def together(count: int, run: Callable[[], int | None]) -> None:
    """Runs a function in so many processes that know of each other, as `torchrun` starts them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    processes = [
        Forked(run, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count), **address)
        for rank in range(count)
    ]
    ended = [process.wait() for process in processes]
    assert ended == [0] * count, [process.err[-3000:] for process in processes]
