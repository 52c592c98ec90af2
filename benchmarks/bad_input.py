"""Fuzzes the command line: ten thousand bad inputs must end without traceback, hang or half-written files.

    python benchmarks/bad_input.py                          all, some minutes; exit code 1 if an input fails
    python benchmarks/bad_input.py --quick                  every fiftieth
    python benchmarks/bad_input.py --only recipe:17         one input again, with its traceback

Recipes, options, data, models, rewards, ledgers, outputs, run and study folders are corrupted at random, each from a
valid one (`bad_kinds.py`, `mutations.py`). An input passes if the command ends within the limit with exit code 0, or
with 2 or 3 and one line that begins with `error:`, prints no control characters, and leaves no output folder if it did
not start.
"""

import argparse
import faulthandler
import io
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from bad_kinds import KINDS, make_material

LIMIT, PATIENCE = 5.0, 12
"""CPU seconds that an input may take, and the multiple of them that it may take in wall-clock time."""
MEMORY, QUICK = 32 << 30, 50
"""Bytes of address space of the process; `--quick` runs every 50th input."""


class Hang(BaseException):
    """An input took longer than the limit."""


def call(argv: Sequence[str], folder: Path, limit: float = 0) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of a command in a folder.

    Raises:
        Hang: if it takes more than `limit` CPU seconds, or `PATIENCE` times as long; 0 is no limit.
    """
    from grao.cli.main import main

    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    os.chdir(folder)
    handlers = {number: signal.signal(number, _late) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.setitimer(signal.ITIMER_PROF, limit)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE * limit)
    try:
        with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
            code = main(list(argv))
    finally:
        for clock in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(clock, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for stream in streams:
        stream.flush()
    return code, *(stream.buffer.getvalue().decode("utf-8", "replace") for stream in streams)  # type: ignore[attr-defined]


def fault(argv: Sequence[str], folder: Path) -> tuple[str, int | None]:
    """Return what is wrong with how the command ends, empty if nothing is, and its exit code."""
    output = folder / "out"
    try:
        code, out, err = call(argv, folder, LIMIT)
    except Hang:
        return f"takes longer than {LIMIT:g} s", None
    except BaseException as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/grao/" in frame.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else "outside"
        return f"{type(error).__name__} at {where}: {str(error)[:150]!r}", None
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    if code not in (0, 2, 3):
        return f"exit code {code}", code
    if code and len(errors) != 1:
        return f"{len(errors)} error lines: {err[:150]!r}", code
    if any(unicodedata.category(char) == "Cc" or char == "\u202e" for char in (err + out) if char not in "\n\t"):
        return f"prints control characters: {ascii(err + out)[:150]}", code
    if code == 2 and argv[0] in ("train", "evaluate") and output.exists() and "continue with" not in err:
        return f"leaves {output.name} behind: {err[:150]!r}", code
    return "", code


def main() -> int:
    """Run the inputs, print the failures and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every fiftieth input")
    parser.add_argument("--only", metavar="KIND[:NUMBER]", help="one kind, or one input with its traceback")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bad-input-") as scratch:
        prepare_process()
        return run(Path(scratch), options.seed, QUICK if options.quick else 1, options.only)


def prepare_process() -> None:
    """Disable network and cache, and limit memory."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "GRAO_CACHE": "/dev/null/none"}
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _late(*_: Any) -> None:
    raise Hang


def run(scratch: Path, seed: int = 0, every: int = 1, only: str | None = None) -> int:
    """Run all inputs, or every n-th, or those of `only`; return 1 if one fails."""
    for name in ("grao.cli.commands", "openai", "trl"):  # slow imports, not to be timed with an input
        with suppress(ImportError):
            import_module(name)
    sys.modules["torch"].set_num_threads(1)
    home = Path.cwd()
    begin, faults = time.perf_counter(), Counter[str]()
    (scratch / "material").mkdir()
    material = make_material(scratch / "material", call)
    print(f"{'kind':10}{'inputs':>8}{'done':>8}{'refused':>9}{'failed':>8}{'seconds':>9}")
    total = 0
    for kind, (make, count) in KINDS.items():
        only_kind, _, only_number = (only or kind).partition(":")
        numbers = [int(only_number)] if only_number else range(0, count, every)
        codes, since, failed = Counter[int | None](), time.perf_counter(), 0
        for number in numbers if only_kind == kind else []:
            folder = scratch / "case"
            folder.mkdir()
            os.chdir(folder)
            argv = make(material, Random(f"{seed} {kind} {number}"))
            faulthandler.dump_traceback_later(2 * PATIENCE * LIMIT, exit=True, file=sys.__stderr__)
            problem, code = fault(argv, folder)
            faulthandler.cancel_dump_traceback_later()
            codes[code] += 1
            if only_number:
                print(argv, *call(argv, folder), sep="\n")
            if problem:
                failed += 1
                faults[problem.partition(":")[0] if "at" not in problem else problem.partition(": ")[0]] += 1
                print(f"FAILED {kind}:{number} {problem}\n  grao {ascii(' '.join(argv))[:300]}", flush=True)
            os.chdir(home)
            shutil.rmtree(folder, ignore_errors=True)
        total += sum(codes.values())
        seconds = time.perf_counter() - since
        refused = codes[2] + codes[3]
        print(f"{kind:10}{sum(codes.values()):8}{codes[0]:8}{refused:9}{failed:8}{seconds:9.1f}", flush=True)
    print(f"{total:,} inputs, {faults.total()} failed, {time.perf_counter() - begin:.0f} s")
    for problem, count in faults.most_common():
        print(f"{count:6}  {problem}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
