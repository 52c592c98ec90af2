"""The `grao` command: words into typed arguments, the commands' module imported last, mistakes in one line.

Exit codes: 0 done; 1 a bug (with traceback); 2 a mistake in the input, or a disk that is full or not
writable; 3 the reward cannot be had; 130 interrupted.
"""

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from grao.cli.arguments import parse_arguments
from grao.errors import InputError, RewardUnavailableError

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}
_FULL_DISK = ("(os error 28)", "(os error 122)", "PytorchStreamWriter", "unexpected pos")
"""How safetensors and torch, which raise no OSError, say that the disk is full or a quota is used up."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except (InputError, RewardUnavailableError) as error:
        return _fail(str(error), 2 if isinstance(error, InputError) else 3)
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"{str(stop) or 'interrupted'}\n")
        return 130
    except BrokenPipeError:
        _drop_output()
        return 1
    except OSError as error:
        if error.errno not in _DISK:
            raise
        if error.filename is None:
            _drop_output()
        return _fail(f"{error.strerror}: {error.filename or 'the file being written'}", 2)
    except Exception as error:
        if not any(words in str(error) for words in _FULL_DISK):
            raise
        return _fail(f"the disk is full or its limit is reached: {error}", 2)


def _run(argv: Sequence[str]) -> int:
    # Waiting threads spin shortly, then sleep: long spinning slows small models many times over when another program
    # needs a core, no spinning by a third when none does (docs/LOG.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        name, argument = parse_arguments(argv)
    except SystemExit as done:
        return int(done.code or 0)
    code: int = getattr(import_module("grao.cli.commands"), name.replace(" ", "_"))(argument) or 0
    torch = sys.modules.get("torch")  # of several processes, one that leaves early takes the connections of the others
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
    return code


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {' '.join(message.splitlines())}\n")
    return code


def _drop_output() -> None:
    """Sends what is still buffered for standard output nowhere: Python would try again to write it on exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
