"""Measures, through the whole `grao evaluate` command, the coverage of its intervals and the error rate of its tests.

    python benchmarks/evaluation_coverage.py [--draws 400] [--prompts 100]

Each draw writes prompts and two files of answers whose texts are their verdicts, runs `grao evaluate` with a reward
that reads these, and checks evaluation.json: net win rates, Bradley-Terry strengths, win rates at equal length, and
tests with Holm's correction. Worlds: verdicts with and without ties, prompts that occur once or three times with
correlated answers, a judge biased by length.
"""

import argparse
import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from grao.cli.main import main
from grao.records.run import Evaluation, read_evaluation

REWARD = """
def read(completions):
    return [float(text.split()[0]) if text[0] in "-0123456789" else 0.0 for text in completions]
"""
"""The reference contains no number, so R of an answer against it is the number at its start."""


@dataclass(frozen=True)
class World:
    """Two models: strengths in log-odds against the references, ties, repeated prompts, the judge's length bias."""

    name: str
    strengths: tuple[float, float] = (0.0, 0.0)
    ties: float = 0.0
    repeats: int = 1
    """Occurrences of each prompt; nine of ten of its answers have the same verdict."""
    length: float = 0.0
    """Weight of tanh of the standardized length difference in the log-odds against the reference."""


WORLDS = (
    World("no difference"),
    World("no difference, ties", ties=0.4),
    World("no difference, repeated prompts", ties=0.2, repeats=3),
    World("unequal", (1.0, 0.4)),
    World("unequal, repeated prompts", (1.0, 0.4), repeats=3),
    World("length bias", (0.3, 0.3), length=1.5),
)


def draw(world: World, prompts: int, seed: int, folder: Path) -> Evaluation:
    """Return one evaluation in the world, made by the command in a new folder."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    (folder / "reward.py").write_text(REWARD)
    distinct = prompts // world.repeats
    # Half of the prompts are held out, with all rows of each.
    rows = [
        {"prompt": f"question {i}", "reference": "r" * 20} for i in range(2 * distinct) for _ in range(world.repeats)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number, strength in enumerate(world.strengths):
        lines = []
        for prompt in range(2 * distinct):
            gap = int(rng.integers(-15, 40)) if world.length else 0
            shared = _verdict(rng, world, strength, gap)
            for _ in range(world.repeats):
                value = shared if world.repeats > 1 and rng.random() < 0.9 else _verdict(rng, world, strength, gap)
                text = f"{value:g} "
                lines.append({"prompt": f"question {prompt}", "answer": text + "x" * max(20 + gap - len(text), 0)})
        (folder / f"all{number}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _keep_held_out(folder, distinct, len(world.strengths))
    before = Path.cwd()
    os.chdir(folder)
    try:
        data = ["--data.path", "data.jsonl", "--data.held_out", str(distinct)]
        rewards = ["--rewards.0.function", "reward.py:read", "--audit.before_training", "skip"]
        with redirect_stdout(io.StringIO()):
            code = main(["evaluate", "a0.jsonl", "a1.jsonl", *data, *rewards, "--output", "out"])
    finally:
        os.chdir(before)
    evaluation = read_evaluation(folder / "out")
    if code or evaluation is None:
        raise RuntimeError(f"grao evaluate ended with {code}")
    return evaluation


def measures(world: World) -> dict[str, float]:
    """Return name of a measure -> its true value."""
    wins = [1 / (1 + math.exp(-strength)) for strength in world.strengths]
    truths = {}
    for name, win in zip(("a0", "a1"), wins, strict=True):
        if world.length:
            truths[f"{name} at equal length"] = win
        else:
            truths[f"{name} net"] = (1 - world.ties) * (2 * win - 1)
    if world.strengths == (0.0, 0.0):
        truths["a0 strength"] = 0.0
    return truths


def covers(evaluation: Evaluation, name: str, truth: float) -> bool | None:
    """Whether the interval of a measure covers its true value; None if there is no interval."""
    model, _, measure = name.partition(" ")
    scores = evaluation.models[model]
    strengths = {rank.name: rank.strength for rank in evaluation.ranking}
    estimate = {"net": scores.net, "strength": strengths[model]}.get(measure, scores.length_controlled)
    return None if estimate is None else estimate.low - 1e-9 <= truth <= estimate.high + 1e-9


def rejects(evaluation: Evaluation) -> bool:
    """Whether any comparison is significant at 5 % after Holm's correction."""
    return min(evaluation.corrected.values()) <= 0.05


def coverage(world: World, draws: int, prompts: int) -> tuple[dict[str, float], float]:
    """Return the share of intervals that cover the truth, by measure, and of evaluations that reject anything."""
    covered: Counter[str] = Counter()
    intervals: Counter[str] = Counter()
    rejected = 0
    with TemporaryDirectory() as scratch:
        for seed in range(draws):
            evaluation = draw(world, prompts, seed, Path(scratch, str(seed)))
            rejected += rejects(evaluation)
            for name, truth in measures(world).items():
                if (hit := covers(evaluation, name, truth)) is not None:
                    covered[name] += hit
                    intervals[name] += 1
    return {name: covered[name] / intervals[name] for name in intervals}, rejected / draws


def _verdict(rng: np.random.Generator, world: World, strength: float, gap: int) -> float:
    if rng.random() < world.ties:
        return 0.0
    lead = strength + world.length * math.tanh(gap / 16.0)  # 16: the standard deviation of -15 to 39
    return 1.0 if rng.random() < 1 / (1 + math.exp(-lead)) else -1.0


def _keep_held_out(folder: Path, distinct: int, files: int) -> None:
    """Write the answers to those prompts that the command holds out, which follow from data and seed."""
    from grao.config.recipe import DataConfig
    from grao.data.load import load_split

    split = load_split(DataConfig(path=str(folder / "data.jsonl"), held_out=distinct), 0)
    prompts = {example.prompt for example in split.test}
    for number in range(files):
        lines: Iterator[str] = iter((folder / f"all{number}.jsonl").read_text().splitlines())
        kept = [line for line in lines if json.loads(line)["prompt"] in prompts]
        (folder / f"a{number}.jsonl").write_text("".join(line + "\n" for line in kept))


def main_table() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Coverage of intervals and size of tests, through grao evaluate")
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--prompts", type=int, default=100)
    arguments = parser.parse_args()
    for world in WORLDS:
        covered, rejected = coverage(world, arguments.draws, arguments.prompts)
        figures = ", ".join(f"{name} {share:.3f}" for name, share in covered.items())
        print(f"{world.name:36} {figures}; rejects {rejected:.3f}", flush=True)


if __name__ == "__main__":
    main_table()
