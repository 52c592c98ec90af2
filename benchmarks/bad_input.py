"""Ten thousand bad inputs through the command line, in one process: no traceback, no wait, nothing left half-written.

Recipes, options, data, models, rewards, ledgers, outputs, run and study folders are made bad at random, each from a
valid one (`bad_kinds.py`, `mutations.py`). An input passes if the command ends within the limit with exit code 0, or
with 2 or 3 and one line that begins with `error:`, shows no control characters, and leaves no output folder where
nothing was begun.

    python benchmarks/bad_input.py                          all, some minutes; exit code 1 if an input fails
    python benchmarks/bad_input.py --quick                  every fiftieth
    python benchmarks/bad_input.py --only recipe:17         one input again, with its traceback
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
"""Seconds of processor time that an input may take, and how many times as long it may wait or share the machine."""
MEMORY, QUICK = 32 << 30, 50
"""Bytes of address space for all inputs together, and which part of them `--quick` takes."""


class Hang(BaseException):
    """An input took longer than the limit."""


def call(argv: Sequence[str], folder: Path, limit: float = 0) -> tuple[int, str, str]:
    """Exit code and output of a command in a folder.

    Raises:
        Hang: if it takes more than `limit` seconds of processor time, or waits for long; 0 is no limit.
    """
    from grao.cli.main import main

    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    os.chdir(folder)
    before = {number: signal.signal(number, _late) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.setitimer(signal.ITIMER_PROF, limit)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE * limit)
    try:
        with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
            code = main(list(argv))
    finally:
        for clock in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(clock, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    for stream in streams:
        stream.flush()
    return code, *(stream.buffer.getvalue().decode("utf-8", "replace") for stream in streams)  # type: ignore[attr-defined]


def fault(argv: Sequence[str], folder: Path) -> tuple[str, int | None]:
    """What is wrong with how the command ends, empty if nothing is; and its exit code."""
    output = folder / "out"
    try:
        code, shown, said = call(argv, folder, LIMIT)
    except Hang:
        return f"takes longer than {LIMIT:g} s", None
    except BaseException as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/grao/" in frame.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else "outside"
        return f"{type(error).__name__} at {where}: {str(error)[:150]!r}", None
    lines = said.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if code not in (0, 2, 3):
        return f"exit code {code}", code
    if code and len(errors) != 1:
        return f"{len(errors)} lines of error: {said[:150]!r}", code
    if any(unicodedata.category(sign) == "Cc" or sign == "\u202e" for sign in (said + shown) if sign not in "\n\t"):
        return f"shows control characters: {ascii(said + shown)[:150]}", code
    if code == 2 and argv[0] in ("train", "evaluate") and output.exists() and "continue with" not in said:
        return f"leaves {output.name} behind: {said[:150]!r}", code
    return "", code


def main() -> int:
    """Runs the inputs, prints what fails, and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every fiftieth input")
    parser.add_argument("--only", metavar="KIND[:NUMBER]", help="one kind, or one input with its traceback")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bad-input-") as scratch:
        prepare_process()
        return run(Path(scratch), chosen.seed, QUICK if chosen.quick else 1, chosen.only)


def prepare_process() -> None:
    """No network, no cache to build in, and a limit to memory."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "GRAO_CACHE": "/dev/null/none"}
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _late(*_: Any) -> None:
    raise Hang


def run(scratch: Path, seed: int = 0, every: int = 1, only: str | None = None) -> int:
    """All inputs, or every n-th, or those of `only`; returns 1 if one fails."""
    for name in ("grao.cli.commands", "openai", "trl"):  # what takes long to import counts for no input
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
        wanted_kind, _, wanted = (only or kind).partition(":")
        numbers = [int(wanted)] if wanted else range(0, count, every) if wanted_kind == kind else []
        codes, since, failed = Counter[int | None](), time.perf_counter(), 0
        for number in numbers if wanted_kind == kind else []:
            folder = scratch / "case"
            folder.mkdir()
            os.chdir(folder)
            argv = make(material, Random(f"{seed} {kind} {number}"))
            faulthandler.dump_traceback_later(2 * PATIENCE * LIMIT, exit=True, file=sys.__stderr__)
            wrong, code = fault(argv, folder)
            faulthandler.cancel_dump_traceback_later()
            codes[code] += 1
            if wanted:
                print(argv, *call(argv, folder), sep="\n")
            if wrong:
                failed += 1
                faults[wrong.partition(":")[0] if "at" not in wrong else wrong.partition(": ")[0]] += 1
                print(f"FAILED {kind}:{number} {wrong}\n  grao {ascii(' '.join(argv))[:300]}", flush=True)
            os.chdir(home)
            shutil.rmtree(folder, ignore_errors=True)
        total += sum(codes.values())
        seconds = time.perf_counter() - since
        refused = codes[2] + codes[3]
        print(f"{kind:10}{sum(codes.values()):8}{codes[0]:8}{refused:9}{failed:8}{seconds:9.1f}", flush=True)
    print(f"{total:,} inputs, {faults.total()} failed, {time.perf_counter() - begin:.0f} s")
    for wrong, count in faults.most_common():
        print(f"{count:6}  {wrong}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
