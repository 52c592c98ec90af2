"""Tests whether a run that is repeatedly killed and resumed ends bit by bit like an undisturbed one.

    python benchmarks/kill_resume.py      some minutes; exit code 1 if a run differs

Every kill sends SIGKILL to all processes of the run at once, at a random moment: while the run starts, within a step,
or while a checkpoint is written, that is, when its draft folder exists. Final weights, metrics (except timings) and the
answers to the held-out prompts are compared.
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
"""Seconds after which a run that neither ends nor reaches the moment of its kill has failed."""
TIMINGS = ("seconds", "speed/")
SETTINGS = (
    *("--rewards.0.rule.length.target", "9", "--rollout.group_size", "4", "--rollout.max_new_tokens", "8"),
    *("--training.prompts_per_step", "4", "--training.learning_rate", "1e-2", "--training.save_every", "1"),
    *("--method.name", "ppo", "--training.schedule", "cosine", "--training.trainer.use_cpu", "true"),
)
"""Options of the run. With PPO, a checkpoint contains every kind of file."""


@dataclass(frozen=True)
class Kill:
    """One SIGKILL, and the state it left."""

    moment: str
    step: int
    """Last step in the log."""
    checkpoint: int
    """Step of the newest checkpoint."""
    draft: bool
    """Whether a checkpoint was being written."""


class Launched:
    """A `grao` command in forks of this process.

    Args:
        argv: arguments of the command.
        processes: number of processes, connected as if `torchrun` had started them.
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
        """Whether all processes have ended."""
        for pid in self._pids:
            if pid not in self._codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self._codes[pid] = os.waitstatus_to_exitcode(status)
        return len(self._codes) == len(self._pids)

    def wait(self, moment: Callable[[], bool] = lambda: False) -> bool:
        """Wait until `moment()` (returns True) or the successful end of all processes (returns False)."""
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
        """Kill all processes at once."""
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while not self.ended():
            time.sleep(0.001)


def survives_kills(
    folder: Path, settings: Sequence[str], processes: int, kills: int, seed: int, say: Callable[[str], None] = print
) -> bool:
    """Do one run without kills and one with them, and report.

    Args:
        folder: folder for both runs.
        settings: options of `grao train`, except number of steps and output.
        processes: number of processes of each run.
        kills: number of kills.
        seed: seed of the moments of the kills.
        say: function that prints a line.

    Returns:
        Whether both runs end alike.
    """
    draw = random.Random(seed)
    steps = ("--training.steps", str(2 * kills + 2))
    reference, run = folder / f"whole-{processes}", folder / f"killed-{processes}"
    Launched(["train", *settings, *steps, "--output", str(reference)], processes).wait()
    begin = ["train", *settings, *steps, "--output", str(run)]
    say(f"{'kill':>4}  {'moment':34}{'last step':>10}{'checkpoint':>12}{'draft':>7}")
    for number in range(1, kills + 1):
        launched = Launched(["train", "--resume", str(run)] if (run / "manifest.json").exists() else begin, processes)
        description, moment = random_moment(draw, run)
        if not launched.wait(moment):
            say(f"the run finished before kill {number}")
            break
        launched.kill()
        left = Kill(description, len(lines(run)), newest(run), (run / "checkpoints" / ".draft").exists())
        say(f"{number:4}  {description:34}{left.step:10}{left.checkpoint:12}{'yes' if left.draft else 'no':>7}")
    if not _is_finished(run):
        Launched(["train", "--resume", str(run)] if (run / "manifest.json").exists() else begin, processes).wait()
    different = [name for name, read in COMPARED.items() if read(reference) != read(run)]
    say(
        f"{processes} process{'es'[: 2 * (processes > 1)]}: " + (f"DIFFERENT: {different}" if different else "the same")
    )
    return not different


def _is_finished(run: Path) -> bool:
    """Whether the run ended before its last kill; a finished run cannot be resumed."""
    manifest = run / "manifest.json"
    return manifest.exists() and json.loads(manifest.read_text())["status"] == "finished"


def random_moment(draw: random.Random, run: Path) -> tuple[str, Callable[[], bool]]:
    """Return the description of a moment, and a function that tells whether it has come."""
    kind, delay = draw.choice(("start", "step", "checkpoint", "checkpoint")), draw.uniform(0.0, 0.15)
    begun = time.monotonic()
    if kind == "start":
        seconds = draw.uniform(0.0, 1.0)
        return f"{seconds:.2f} s after its start", lambda: time.monotonic() > begun + seconds
    if kind == "step":
        step = len(lines(run)) + draw.randint(1, 2)
        return f"{delay:.3f} s into a step", _after(lambda: len(lines(run)) >= step, delay)
    draft, checkpoint = run / "checkpoints" / ".draft", newest(run) + draw.randint(0, 3)
    return f"{delay:.3f} s into a checkpoint", _after(lambda: newest(run) >= checkpoint and draft.exists(), delay)


def _after(event: Callable[[], bool], seconds: float) -> Callable[[], bool]:
    """Return a function that tells whether so many seconds have passed since the event."""
    happened: list[float] = []

    def passed() -> bool:
        if not happened and event():
            happened.append(time.monotonic())
        return bool(happened) and time.monotonic() >= happened[0] + seconds

    return passed


def lines(run: Path) -> list[dict[str, Any]]:
    """Return the complete lines of the log, without timings."""
    log = run / "metrics.jsonl"
    complete = log.read_text().split("\n")[:-1] if log.exists() else []
    steps = (json.loads(line) for line in complete)
    return [{name: value for name, value in step.items() if not name.startswith(TIMINGS)} for step in steps]


def newest(run: Path) -> int:
    """Return the step of the newest checkpoint, 0 if there is none."""
    return max((int(path.name.split("-")[1]) for path in run.glob("checkpoints/checkpoint-*")), default=0)


COMPARED: dict[str, Callable[[Path], Any]] = {
    "weights": lambda run: {path.name: path.read_bytes() for path in sorted((run / "model").glob("*.safetensors"))},
    "metrics": lines,
    "answers": lambda run: (run / "items.jsonl").read_bytes(),
}
"""Name -> function that reads from a run what must be equal."""


def main() -> None:
    """Print every kill and the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--architecture", choices=("dense", "moe"), default="dense")
    parser.add_argument("--save-async", action="store_true", help="write checkpoints in the background")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a forked process has no worker threads
    import_module("grao.cli.commands")
    with tempfile.TemporaryDirectory() as name:
        world = prepare(architecture=arguments.architecture, prompts=24, held_out=4, cache=Path(name), steps=20)
        data = ("--model.path", str(world.model), "--data.path", str(world.train), "--data.test_path", str(world.test))
        settings = (*SETTINGS, *data, "--training.save_async", str(arguments.save_async).lower())
        same = [survives_kills(Path(name), settings, n, arguments.kills, arguments.seed) for n in arguments.processes]
    raise SystemExit(not all(same))


if __name__ == "__main__":
    main()
