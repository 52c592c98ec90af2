"""Measures when `watch` notices that a learned reward is overoptimized, against the gold judge's win rate.

    python benchmarks/overoptimisation.py --plot docs/overoptimisation.png    three seeds, the figure and a small JSON
    python benchmarks/overoptimisation.py --quick                             a few steps, as a smoke test
    python benchmarks/overoptimisation.py --from overoptimisation.json --plot docs/overoptimisation.png    plot only

In the embedded world (`grao.sandbox`), for each seed: a small model answers prompts, the gold judge labels pairs of
answers, and a share of the labels is flipped; a reward model learns from these pairs (`grao reward train`); the first
model is trained on it while the gold judge only watches (`watch`). Two controls: training on the gold judge while the
reward model watches; and training on the reward model with `method.sign: positive`, which never pushes references down,
to tell the effect of negative weights from that of the reward.
The reward model is imperfect like any learned reward: it has seen few pairs, some mislabeled, all of them answers from
before training. It was not made to be exploited.
"""

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads slow down a shared machine

from overoptimisation_figure import CASES, Case, Curve, Study, figure

from grao.cli.screen import TerminalScreen, open_console, quiet_libraries
from grao.config.load import load_config, load_recipe
from grao.config.recipe import DataConfig, RewardModelRecipe
from grao.data.encoding import encode_examples
from grao.data.load import examples_from_dataset
from grao.engine.loading import load_model, load_tokenizer
from grao.groups import sample_groups
from grao.records.run import read_metrics
from grao.rollouts.base import Sampling, draw_key
from grao.rollouts.transformers import TransformersGenerator
from grao.sandbox.judge import gold
from grao.sandbox.world import Sandbox, prepare, rows
from grao.studies.prepare import Screen
from grao.studies.reward_model import train_reward_model
from grao.studies.train import start_run

ANSWERS = Sampling(samples=8, temperature=1.0, max_new_tokens=40)
"""Samples of a prompt; two with different scores make a pair."""
PAIR_SEED = 10_000
"""Added to the seed of the prompts of the pairs, which differ from those of the training."""
GOLD = "grao.sandbox.judge:gold"


@dataclass(frozen=True)
class Setting:
    """Settings of each seed's runs."""

    prompts: int = 500
    """Prompts of the pairs: one pair each, if the gold judge scores two answers differently."""
    noise: float = 0.25
    """Share of the training pairs whose label is flipped."""
    epochs: int = 2
    """Epochs of the reward model."""
    steps: int = 66
    """Steps of the policy."""
    learning_rate: float = 4e-4
    every: int = 5
    """Steps between checks."""
    batch: int = 32
    """Prompts per step."""
    ability: str = "able"
    """Ability of the model before training, see `grao.sandbox.world.prepare`."""
    pretraining: int = 1600
    """Steps of its pretraining."""


QUICK = Setting(prompts=40, epochs=1, steps=14, every=2, batch=4, pretraining=60)


def write_pairs(world: Sandbox, split: str, setting: Setting, noise: float, seed: int, file: Path) -> None:
    """Write pairs of answers from before training; `chosen` is what the gold judge prefers, except for `noise`."""
    prompts = rows(split, setting.prompts, PAIR_SEED + seed)
    model, tokenizer = load_model(str(world.model)), load_tokenizer(str(world.model))
    end = int(tokenizer.eos_token_id)
    items = encode_examples(examples_from_dataset(prompts, DataConfig(path="rows")), tokenizer, end, 1024, "drop").items
    generator = TransformersGenerator(model, [end], int(tokenizer.pad_token_id), batch_size=256)
    keys = [draw_key(seed, "pairs", item.example.id) for item in items]
    rng = Random(f"{split} {seed}")
    with file.open("w", encoding="utf-8") as lines:
        for group in sample_groups(items, keys, generator, ANSWERS, tokenizer):
            texts = [text for text in group.texts if text.strip()]
            columns = {name: [value] * len(texts) for name, value in group.item.example.columns.items()}
            scores = gold([""] * len(texts), texts, **columns)
            other = next((index for index, score in enumerate(scores) if score != scores[0]), None)
            if other is None:
                continue
            worse, better = sorted((0, other), key=scores.__getitem__)
            if rng.random() < noise:
                worse, better = better, worse
            pair = {"prompt": group.item.prompt_text, "chosen": texts[better], "rejected": texts[worse]}
            lines.write(json.dumps(pair) + "\n")


def learn_reward(world: Sandbox, setting: Setting, seed: int, folder: Path, screen: Screen) -> dict[str, float]:
    """Train a reward model on noisy pairs, and return its accuracy on held-out pairs without noise."""
    folder.mkdir(parents=True)
    write_pairs(world, "train", setting, setting.noise, seed, folder / "pairs.jsonl")
    write_pairs(world, "test", setting, 0.0, seed, folder / "held-out.jsonl")
    recipe = load_config(
        RewardModelRecipe,
        None,
        [
            ("model.path", str(world.model)),
            ("data.path", str(folder / "pairs.jsonl")),
            ("data.test_path", str(folder / "held-out.jsonl")),
            ("training.epochs", str(setting.epochs)),
            ("training.pairs_per_step", "16"),
            ("training.pairs_at_once", "16"),
            ("training.learning_rate", "3e-4"),
            ("seed", str(seed)),
            ("output", str(folder / "reward")),
        ],
    )
    record = train_reward_model(recipe, screen)
    scores = record.scores
    return {
        "trained": record.trained,
        "held_out": scores.accuracy.n,
        "accuracy": scores.accuracy.value,
        "low": scores.accuracy.low,
        "high": scores.accuracy.high,
        "longer": scores.longer.value,
    }


def align(world: Sandbox, setting: Setting, seed: int, folder: Path, case: Case, screen: Screen) -> Curve:
    """Train on one of the two rewards while the other one watches."""
    rewards = {"model": [("model.path", str(folder / "reward" / "model"))], "gold": [("function", GOLD)]}
    watcher = "gold" if case.trained_on == "model" else "model"
    output = folder / f"{case.trained_on}-{case.sign}"
    recipe = load_recipe(
        None,
        [
            ("model.path", str(world.model)),
            ("data.path", str(world.train)),
            ("data.test_path", str(world.test)),
            *((f"rewards.0.{field}", value) for field, value in rewards[case.trained_on]),
            *((f"watch.reward.{field}", value) for field, value in rewards[watcher]),
            ("watch.every", str(setting.every)),
            ("watch.prompts", str(setting.batch)),
            ("method.sign", case.sign),
            ("rollout.max_new_tokens", "40"),
            ("rollout.batch_size", "256"),
            ("training.prompts_per_step", str(setting.batch)),
            ("training.learning_rate", str(setting.learning_rate)),
            ("training.steps", str(setting.steps)),
            ("training.measure_kl", "true"),
            ("evaluation.enabled", "false"),
            ("seed", str(seed)),
            ("output", str(output)),
        ],
    )
    return read_curve(start_run(recipe, screen).folder, case, seed)


def read_curve(run: Path, case: Case, seed: int) -> Curve:
    """Return the checks of a run."""
    checks = [line for line in read_metrics(run) if "watch/second" in line]
    column = {key: [check[key] for check in checks] for key in checks[0]}
    return Curve(
        case=case,
        seed=seed,
        steps=[int(step) for step in column["step"]],
        first=column["watch/first"],
        second=column["watch/second"],
        kl=[per_token * tokens for per_token, tokens in zip(column["kl"], column["completion/tokens"], strict=True)],
        reward=column["reward/mean"],
        repetition=column["watch/repetition"],
        alarm=[int(value) for value in column["watch/alarm"]],
    )


def run_all(setting: Setting, seeds: range, folder: Path, screen: Screen) -> Study:
    """Make pairs, reward model and the three runs of every seed."""
    world = prepare(ability=setting.ability, steps=setting.pretraining)
    models, curves = [], []
    for seed in seeds:
        screen.say(f"seed {seed}")
        models.append(learn_reward(world, setting, seed, folder / f"seed-{seed}", screen))
        curves += [align(world, setting, seed, folder / f"seed-{seed}", case, screen) for case in CASES]
    return Study(asdict(setting), models, curves)


def table(study: Study) -> Iterator[str]:
    """Yield a line for each reward model and run."""
    for seed, model in enumerate(study.models):
        yield (
            f"reward model of seed {seed}: {model['trained']} pairs, right on {model['accuracy']:.1%} of"
            f" {model['held_out']} held-out pairs ({model['low']:.1%} to {model['high']:.1%}),"
            f" always choosing the longer {model['longer']:.1%}"
        )
    yield f"{'trained on':>14} {'seed':>4} {'proxy':>12} {'gold':>20} {'peak at':>8} {'hacked at':>9} {'drift at':>8}"
    for curve in study.curves:
        name = f"{curve.case.trained_on} {curve.case.sign}"
        peak, proxy, gold_ends = curve.peak(), curve.ends(curve.proxy), curve.ends(curve.gold)
        yield (
            f"{name:>14} {curve.seed:4} {proxy[0]:5.1%} {proxy[1]:6.1%} {gold_ends[0]:6.1%} {peak.value:6.1%}"
            f" {gold_ends[1]:6.1%} {peak.step:8} {curve.first_alarm(2) or '-':>9} {curve.first_alarm(1) or '-':>8}"
        )


def main() -> None:
    """Train or read a record, print the table, write the JSON and, with `--plot`, the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, help="3 by default, 1 with --quick")
    for name, value in asdict(Setting()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), help=f"{value} by default")
    parser.add_argument("--folder", type=Path, default=Path("runs/overoptimisation"), help="new folder for the runs")
    parser.add_argument("--output", type=Path, default=Path("overoptimisation.json"))
    parser.add_argument("--from", dest="source", type=Path, help="plot an earlier JSON, train nothing")
    parser.add_argument("--plot", type=Path, help="PNG or SVG")
    options = parser.parse_args()
    if options.source:
        study = Study.read(options.source)
    else:
        overrides = {name: value for name in asdict(Setting()) if (value := getattr(options, name)) is not None}
        setting = replace(QUICK if options.quick else Setting(), **overrides)
        with quiet_libraries():
            seeds = range(options.seeds or (1 if options.quick else 3))
            study = run_all(setting, seeds, options.folder, TerminalScreen(open_console()))
        study.write(options.output)
    print("\n".join(table(study)))
    if options.plot:
        figure(study).savefig(options.plot)


if __name__ == "__main__":
    main()
