"""Measures GRAO on four objectives of the embedded world (helpful, harmless, truthful, fair), trained alone and mixed.

    python benchmarks/objectives.py --output runs/objectives            about ten minutes on one core
    python benchmarks/objectives.py --output runs/quick --quick         a few steps of each, about a minute

All arms start from one weak base model, pretrained on a corpus with made-up facts and prejudice, do the same number of
steps and prompts, and answer the same held-out prompts greedily. The arms:

    helpful, harmless, truthful, fair   prompts of one objective; the reward is the gold judge's verdict
    all                                 a quarter of the prompts from each, the same reward
    all, constrained                    the same, and an answer must not be less harmless or truthful than the
                                        reference: a wrong answer ranks below one that admits ignorance

Finished arms in the output folder are not run again. There is one seed, so the intervals are over prompts only; those
of `fair` are too narrow, because its prompts are few problems, each asked by every asker.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from objectives_tables import OBJECTIVES, Answered, print_side_effects, print_wins
from transformers import TrainerCallback

from grao.cli.screen import quiet_libraries
from grao.config.load import load_recipe
from grao.config.strict_yaml import write_inline
from grao.records.run import read_evaluation, read_items
from grao.sandbox.kinds import Task
from grao.sandbox.lexicon import ASKERS, Objective
from grao.sandbox.tasks import kinds_of, versions
from grao.sandbox.world import Row, Sandbox, prepare, row, rows
from grao.studies.train import start_run

GOLD = {"function": "grao.sandbox.judge:gold", "relative": "sign"}
CONSTRAINTS = [
    {"function": f"grao.sandbox.judge:{name}", "relative": "sign", "weight": 0, "constraint": True}
    for name in ("harmless", "truthful")
]
SETTINGS = {
    "rollout.max_new_tokens": "40",
    "rollout.batch_size": "256",
    "method.sign": "positive",
    "training.prompts_per_step": "16",
    "training.learning_rate": "1e-3",
    "evaluation.temperature": "0",
}


@dataclass(frozen=True)
class Arm:
    """The training prompts and rewards of a model."""

    name: str
    objectives: tuple[Objective, ...]
    rewards: list[dict[str, Any]]

    @property
    def folder(self) -> str:
        """Its name as a file name."""
        return re.sub(r"\W+", "-", self.name)


ARMS = [
    *(Arm(objective, (objective,), [GOLD]) for objective in OBJECTIVES),
    Arm("all", OBJECTIVES, [GOLD]),
    Arm("all, constrained", OBJECTIVES, [GOLD, *CONSTRAINTS]),
]


def write_files(folder: Path, prompts: int, held_out: int, seed: int) -> dict[Objective, list[Row]]:
    """Write the held-out file, `held_out` prompts per objective; return `prompts` training rows of each."""
    folder.mkdir(parents=True, exist_ok=True)
    tests = [r for name in OBJECTIVES if name != "fair" for r in rows("test", held_out, seed, kinds_of([name]))]
    tests += fair_prompts(held_out, seed)
    _write(folder / "test.jsonl", tests)
    return {name: list(rows("train", prompts, seed, kinds_of([name]))) for name in OBJECTIVES}


def fair_prompts(count: int, seed: int) -> list[dict[str, Any]]:
    """Return prompts of `fair`: every problem once from each asker, with asker, prejudice and problem."""
    rng, by_prompt = Random(f"versions {seed}"), dict[str, dict[str, Any]]()
    while len(by_prompt) < count:
        kind = kinds_of(["fair"])[len(by_prompt) // len(ASKERS) % 2]
        by_prompt |= {task.prompt: _row_of_asker(task, rng) for task in versions(rng, "test", kind)}
    return list(by_prompt.values())


def run_arm(
    arm: Arm, base: Sandbox, files: dict[Objective, list[Row]], output: Path, steps: int, seed: int
) -> list[Answered]:
    """Train an arm unless it is finished, and return its answers to the held-out prompts."""
    folder = output / arm.folder
    if read_evaluation(folder) is None:
        by_objective = [files[name] for name in arm.objectives]
        train = output / f"{arm.folder}.jsonl"
        _write(train, [r for lines in by_objective for r in lines[: len(lines) // len(by_objective)]])
        settings = {
            "model.path": write_inline(str(base.model)),
            "data.path": write_inline(str(train)),
            "data.test_path": write_inline(str(output / "test.jsonl")),
            "output": write_inline(str(folder)),
            "rewards": json.dumps(arm.rewards),
            "training.steps": str(steps),
            "seed": str(seed),
            **SETTINGS,
        }
        start_run(load_recipe(None, list(settings.items())), Silent())
    return answers_of(folder, output / "test.jsonl", "after")


def answers_of(folder: Path, test: Path, model: str) -> list[Answered]:
    """Return the answers of a run, `before` or `after`, with their rows."""
    lines = [json.loads(line) for line in test.read_text().splitlines()]
    by_prompt = {line["prompt"]: line for line in lines}
    return [Answered(by_prompt[item.prompt], item.answers[model].text) for item in read_items(folder)]


class Silent:
    """A `grao.studies.prepare.Screen` that shows nothing."""

    def say(self, line: object) -> None:
        """Do nothing."""

    copyable = phases = follow = say

    @contextmanager
    def stage(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """Show no progress."""
        yield lambda done, total: None

    @contextmanager
    def training(self, steps: int, samples: object) -> Iterator[TrainerCallback]:
        """Show no progress."""
        yield TrainerCallback()


def _row_of_asker(task: Task, rng: Random) -> dict[str, Any]:
    return {**row(task, rng), "asker": task.asker, "prejudice": task.prejudice, "problem": task.problem}


def _write(path: Path, lines: Sequence[Row]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def main() -> None:
    """Build the world, run the arms, print the tables."""
    parser = argparse.ArgumentParser(description="Four objectives in the embedded world, alone and mixed")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--quick", action="store_true", help="a barely trained base model and three steps")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    output, quick = arguments.output, arguments.quick
    pretraining = {"steps": 60 if quick else 1600, "prompts": 1, "held_out": 1}  # the data files are written here
    with quiet_libraries():
        base = prepare(seed=arguments.seed, cache=output / "cache", objectives=OBJECTIVES, **pretraining)
    files = write_files(output, 64 if quick else 640, 32 if quick else 128, arguments.seed)
    steps = 3 if quick else arguments.steps
    by_arm: dict[str, list[Answered]] = {}
    for arm in ARMS:
        with quiet_libraries():
            answers = run_arm(arm, base, files, output, steps, arguments.seed)
        by_arm.setdefault("nothing", answers_of(output / arm.folder, output / "test.jsonl", "before"))
        by_arm[arm.name] = answers
    print_wins(by_arm)
    print_side_effects(by_arm)


if __name__ == "__main__":
    main()
