"""The `grao` command. It parses the arguments, imports the commands last and reports errors in one line.

Exit codes: 0 done; 1 a bug (with traceback), or another process of the run exited; 2 invalid input, or a disk that is
full or not writable; 3 the reward is unavailable; 4 NaN or infinite numbers; 130 stopped by Ctrl-C, SIGTERM or SIGHUP.
"""

import errno
import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from grao.errors import BrokenNumbersError, InputError, RewardUnavailableError
from grao.heartbeat import every
from grao.signals import handled, resend_lost_interrupts, stop
from grao.visible import visible

_CODES: dict[type[Exception], int] = {InputError: 2, RewardUnavailableError: 3, BrokenNumbersError: 4}
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS}
_FULL_DISK = ("(os error 27)", "(os error 28)", "(os error 122)", "PytorchStreamWriter", "unexpected pos")
"""What safetensors and torch, which raise no OSError, say when the disk is full or the quota used up."""
_LOST = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
"""What gloo and NCCL say when another process is gone."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    try:
        with handled(stop, interrupt=False), resend_lost_interrupts():
            code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except tuple(_CODES) as error:
        return _fail(error, str(error), next(code for kind, code in _CODES.items() if isinstance(error, kind)))
    except KeyboardInterrupt as stopped:
        sys.stderr.write(f"{str(stopped) or 'stopped; run the same command to start over'}\n")
        return 130
    except BrokenPipeError:
        _drop_output()
        return 1
    except OSError as error:
        if error.errno not in _DISK and error.filename is None:
            raise
        if error.filename is None:
            _drop_output()
        return _fail(error, f"{error.strerror}: {error.filename or 'the file being written'}")
    except Exception as error:
        if any(words in str(error) for words in _LOST):
            return _fail(error, "another process of this run exited; see its output", 1)
        if not any(words in str(error) for words in _FULL_DISK):
            raise
        return _fail(error, f"the disk is full or its quota is used up: {error}")


def _run(argv: Sequence[str]) -> int:
    # Waiting threads spin briefly, then sleep. Long spinning makes small models many times slower when another program
    # needs a core; no spinning makes them a third slower when none does (docs/LOG.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for stream in (sys.stdout, sys.stderr):  # model text may hold characters that the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with _announced(next(iter(argv), ""), live=True):
        parser = import_module("grao.cli.parser")
    try:
        name, argument = parser.parse_arguments(argv)
    except SystemExit as done:
        return int(done.code or 0)
    with _announced(name, live=sys.stdout.isatty()):
        commands = import_module("grao.cli.commands")
    code: int = getattr(commands, name.replace(" ", "_"))(argument) or 0
    torch = sys.modules.get("torch")  # a process that leaves early breaks the others' connections
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    return code


@contextmanager
def _announced(name: str, live: bool) -> Iterator[None]:
    """Say that libraries are loading, which takes seconds. If `live`: only in a terminal, and erase the line later."""
    loaded = os.environ.get("RANK", "0") != "0" or "grao.cli.commands" in sys.modules
    if loaded or (live and not sys.stdout.isatty()):
        yield
        return
    began = time.monotonic()
    before, behind = ("\r", "") if live else ("", "\n")

    def say(progress: str = "") -> None:
        sys.stdout.write(f"{before}grao {name}: loading{progress}{behind}")
        sys.stdout.flush()

    say()
    try:
        with every(1.0 if live else 15.0, lambda: say(f" {time.monotonic() - began:.0f} s")):
            yield
    finally:
        if not live and time.monotonic() - began > 5.0:
            say(f" took {time.monotonic() - began:.0f} s")
        sys.stdout.write("\r\x1b[K" * live)
        sys.stdout.flush()


def _fail(error: Exception, message: str, code: int = 2) -> int:
    """Print the error and its notes (how to resume) in one line; return the exit code."""
    text = "; ".join((message, *getattr(error, "__notes__", ())))
    sys.stderr.write(f"error: {visible(' '.join(text.splitlines()))}\n")
    return code


def _drop_output() -> None:
    """Discard what is still buffered for standard output; Python would try to write it again on exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
