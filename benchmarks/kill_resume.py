"""A run that is killed again and again and resumed each time: does it end where the undisturbed one does, bit by bit?

    python benchmarks/kill_resume.py

Every kill is SIGKILL to all processes of the run at once. Its moment is drawn: while the run starts, within a step, or
in the writing of a checkpoint, as soon as the folder of drafts is there. Compared are the final weights, the metrics
but for timings, and the answers to the held-out prompts. Takes some minutes.
"""

import argparse
import json
import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from grao.sandbox.world import prepare

LONGEST = 600.0
"""Seconds after which a run that neither ends nor comes to the moment of its kill is given up."""
TIMINGS = ("seconds", "speed/")
SETTINGS = (
    *("--rewards.0.rule.length.target", "9", "--rollout.group_size", "4", "--rollout.max_new_tokens", "8"),
    *("--training.prompts_per_step", "4", "--training.learning_rate", "1e-2", "--training.save_every", "1"),
    *("--method.name", "ppo", "--training.schedule", "cosine", "--training.trainer.use_cpu", "true"),
)
"""Of the run: with PPO, a checkpoint holds every kind of file."""


@dataclass(frozen=True)
class Kill:
    """One SIGKILL, and what it left."""

    moment: str
    step: int
    """The last that is in the log."""
    checkpoint: int
    """The newest."""
    draft: bool
    """Whether one was being written."""


class Launched:
    """`grao` with some arguments in processes that are copies of this one.

    Args:
        argv: arguments.
        processes: how many, which know of each other as if `torchrun` had started them.
    """

    def __init__(self, argv: Sequence[str], processes: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        self._pids = [self._fork(argv, rank, processes, port) for rank in range(processes)]
        self._codes: dict[int, int] = {}

    def _fork(self, argv: Sequence[str], rank: int, processes: int, port: str) -> int:
        if pid := os.fork():
            return pid
        code = 1
        try:
            from grao.cli.main import main as grao

            for state in (AcceleratorState, GradientState, PartialState):
                state._shared_state.clear()
            if processes > 1:
                ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                os.environ |= {**ranks, "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = grao(list(argv))
        finally:
            os._exit(code)

    def ended(self) -> bool:
        """Whether all processes have."""
        for pid in self._pids:
            if pid not in self._codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self._codes[pid] = os.waitstatus_to_exitcode(status)
        return len(self._codes) == len(self._pids)

    def wait(self, moment: Callable[[], bool] = lambda: False) -> bool:
        """Until a moment has come, True, or all processes have ended, False; then all must have done well."""
        deadline = time.monotonic() + LONGEST
        while not moment():
            if self.ended():
                if any(self._codes.values()):
                    raise RuntimeError(f"the run ended with {list(self._codes.values())}")
                return False
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError("the run hangs")
            time.sleep(0.001)
        return True

    def kill(self) -> None:
        """Ends all of them at once."""
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while not self.ended():
            time.sleep(0.001)


def killed(
    folder: Path, settings: Sequence[str], processes: int, kills: int, seed: int, say: Callable[[str], None] = print
) -> bool:
    """Makes one run undisturbed and one with kills, and says what happened.

    Args:
        folder: for both; what `settings` name lies here.
        settings: of `grao train`, but for the number of steps and the output.
        processes: of the run.
        kills: how often it is killed.
        seed: of their moments.
        say: takes a line.

    Returns:
        Whether the two are the same.
    """
    draw = random.Random(seed)
    steps = ("--training.steps", str(2 * kills + 2))
    whole, run = folder / f"whole-{processes}", folder / f"killed-{processes}"
    Launched(["train", *settings, *steps, "--output", str(whole)], processes).wait()
    begin = ["train", *settings, *steps, "--output", str(run)]
    say(f"{'kill':>4}  {'moment':34}{'last step':>10}{'checkpoint':>12}{'draft':>7}")
    for number in range(1, kills + 1):
        launched = Launched(["train", "--resume", str(run)] if (run / "manifest.json").exists() else begin, processes)
        words, moment = drawn(draw, run)
        if not launched.wait(moment):
            say(f"the run was finished before kill {number}")
            break
        launched.kill()
        left = Kill(words, len(lines(run)), newest(run), (run / "checkpoints" / ".draft").exists())
        say(f"{number:4}  {words:34}{left.step:10}{left.checkpoint:12}{'yes' if left.draft else 'no':>7}")
    Launched(["train", "--resume", str(run)] if (run / "manifest.json").exists() else begin, processes).wait()
    different = [name for name, read in READ.items() if read(whole) != read(run)]
    say(
        f"{processes} process{'es'[: 2 * (processes > 1)]}: " + (f"DIFFERENT: {different}" if different else "the same")
    )
    return not different


def drawn(draw: random.Random, run: Path) -> tuple[str, Callable[[], bool]]:
    """A moment in words, and whether it has come."""
    kind, later = draw.choice(("start", "step", "checkpoint", "checkpoint")), draw.uniform(0.0, 0.15)
    begun = time.monotonic()
    if kind == "start":
        seconds = draw.uniform(0.0, 1.0)
        return f"{seconds:.2f} s after its start", lambda: time.monotonic() > begun + seconds
    if kind == "step":
        wanted = len(lines(run)) + draw.randint(1, 2)
        return f"{later:.3f} s into a step", _then(lambda: len(lines(run)) >= wanted, later)
    draft, before = run / "checkpoints" / ".draft", newest(run) + draw.randint(0, 3)
    return f"{later:.3f} s into a checkpoint", _then(lambda: newest(run) >= before and draft.exists(), later)


def _then(event: Callable[[], bool], seconds: float) -> Callable[[], bool]:
    """Whether so many seconds have gone since an event."""
    seen: list[float] = []

    def passed() -> bool:
        if not seen and event():
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() >= seen[0] + seconds

    return passed


def lines(run: Path) -> list[dict[str, Any]]:
    """The whole lines of the log without timings."""
    log = run / "metrics.jsonl"
    whole = log.read_text().split("\n")[:-1] if log.exists() else []
    steps = (json.loads(line) for line in whole)
    return [{name: value for name, value in step.items() if not name.startswith(TIMINGS)} for step in steps]


def newest(run: Path) -> int:
    """The step of the newest checkpoint, 0 if there is none."""
    return max((int(path.name.split("-")[1]) for path in run.glob("checkpoints/checkpoint-*")), default=0)


READ: dict[str, Callable[[Path], Any]] = {
    "weights": lambda run: {path.name: path.read_bytes() for path in sorted((run / "model").glob("*.safetensors"))},
    "metrics": lines,
    "answers": lambda run: (run / "items.jsonl").read_bytes(),
}
"""What must be the same."""


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--architecture", choices=("dense", "moe"), default="dense")
    parser.add_argument("--save-async", action="store_true", help="checkpoints are written in the background")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a copy of a process has none of its threads
    import_module("grao.cli.commands")
    with tempfile.TemporaryDirectory() as name:
        world = prepare(architecture=arguments.architecture, prompts=24, held_out=4, cache=Path(name), steps=20)
        data = ("--model.path", str(world.model), "--data.path", str(world.train), "--data.test_path", str(world.test))
        settings = (*SETTINGS, *data, "--training.save_async", str(arguments.save_async).lower())
        same = [killed(Path(name), settings, each, arguments.kills, arguments.seed) for each in arguments.processes]
    raise SystemExit(not all(same))


if __name__ == "__main__":
    main()
