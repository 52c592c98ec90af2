"""A learned reward is optimised until the gold judge falls; does the watch say so, and when?

    python benchmarks/overoptimisation.py --plot docs/overoptimisation.png    three seeds, the figure and a small JSON
    python benchmarks/overoptimisation.py --quick                             a few steps: shows that it works
    python benchmarks/overoptimisation.py --from overoptimisation.json --plot docs/overoptimisation.png    draws again

In the embedded world (`grao.sandbox`), for each seed: a small model answers prompts, the gold judge says which of two
answers is the better one, and a share of its verdicts is turned around; a reward model learns from these pairs
(`grao reward train`); the first model is aligned with it while the gold judge looks on (`watch`). Two controls: the
gold judge trains and the reward model looks on; and the reward model trains with `method.sign: positive`, which never
pushes references down, so that what negative weights break is not taken for what the reward breaks.
The reward model is imperfect as learned rewards are: it has seen few pairs, some labelled wrongly, all of them answers
from before training. Nothing in it is made to be exploited.
"""

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: threads that spin slow down all on a shared machine

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
"""Of which two with different scores make a pair."""
EARLIER = 10_000
"""Added to the seed of the prompts of the pairs, which are not those of the alignment."""
GOLD = "grao.sandbox.judge:gold"


@dataclass(frozen=True)
class Setting:
    """What is done for each seed."""

    prompts: int = 500
    """That the pairs are made from: one pair each, where the gold judge tells two answers apart."""
    noise: float = 0.25
    """Share of the training pairs whose label is turned around."""
    epochs: int = 2
    """Of the reward model."""
    steps: int = 66
    """Of the alignment."""
    learning_rate: float = 4e-4
    every: int = 5
    """Steps between checks."""
    batch: int = 32
    """Prompts of a step."""
    ability: str = "able"
    """Of the model before training, as of `grao.sandbox.world.prepare`."""
    pretraining: int = 1600
    """Its steps."""


QUICK = Setting(prompts=40, epochs=1, steps=14, every=2, batch=4, pretraining=60)


def write_pairs(world: Sandbox, split: str, setting: Setting, noise: float, seed: int, file: Path) -> None:
    """Pairs of answers from before training; but for a share of errors, what the gold judge prefers is `chosen`."""
    drawn = rows(split, setting.prompts, EARLIER + seed)
    model, tokenizer = load_model(str(world.model)), load_tokenizer(str(world.model))
    end = int(tokenizer.eos_token_id)
    items = encode_examples(examples_from_dataset(drawn, DataConfig(path="rows")), tokenizer, end, 1024, "drop").items
    generator = TransformersGenerator(model, [end], int(tokenizer.pad_token_id), batch_size=256)
    keys = [draw_key(seed, "pairs", item.example.id) for item in items]
    errs = Random(f"{split} {seed}")
    with file.open("w", encoding="utf-8") as lines:
        for group in sample_groups(items, keys, generator, ANSWERS, tokenizer):
            texts = [text for text in group.texts if text.strip()]
            columns = {name: [value] * len(texts) for name, value in group.item.example.columns.items()}
            scores = gold([""] * len(texts), texts, **columns)
            other = next((place for place, score in enumerate(scores) if score != scores[0]), None)
            if other is None:
                continue
            worse, better = sorted((0, other), key=scores.__getitem__)
            if errs.random() < noise:
                worse, better = better, worse
            pair = {"prompt": group.item.prompt_text, "chosen": texts[better], "rejected": texts[worse]}
            lines.write(json.dumps(pair) + "\n")


def learn_reward(world: Sandbox, setting: Setting, seed: int, folder: Path, screen: Screen) -> dict[str, float]:
    """`grao reward train` on noisy pairs; what it is worth on held-out pairs without noise."""
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
    """`grao train` with one of the two rewards while the other looks on."""
    rewards = {"model": [("model.path", str(folder / "reward" / "model"))], "gold": [("function", GOLD)]}
    second = "gold" if case.trained_on == "model" else "model"
    output = folder / f"{case.trained_on}-{case.sign}"
    recipe = load_recipe(
        None,
        [
            ("model.path", str(world.model)),
            ("data.path", str(world.train)),
            ("data.test_path", str(world.test)),
            *((f"rewards.0.{field}", value) for field, value in rewards[case.trained_on]),
            *((f"watch.reward.{field}", value) for field, value in rewards[second]),
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
    """The looks of a run."""
    looks = [line for line in read_metrics(run) if "watch/second" in line]
    column = {key: [look[key] for look in looks] for key in looks[0]}
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
    """Every seed: pairs, reward model, and the three runs."""
    world = prepare(ability=setting.ability, steps=setting.pretraining)
    models, curves = [], []
    for seed in seeds:
        screen.say(f"seed {seed}")
        models.append(learn_reward(world, setting, seed, folder / f"seed-{seed}", screen))
        curves += [align(world, setting, seed, folder / f"seed-{seed}", case, screen) for case in CASES]
    return Study(asdict(setting), models, curves)


def table(study: Study) -> Iterator[str]:
    """What came of it, a line a seed and reward."""
    for seed, model in enumerate(study.models):
        yield (
            f"reward model of seed {seed}: {model['trained']} pairs, right on {model['accuracy']:.1%} of"
            f" {model['held_out']} held-out pairs ({model['low']:.1%} to {model['high']:.1%}),"
            f" length {model['longer']:.1%}"
        )
    yield f"{'trained on':>14} {'seed':>4} {'proxy':>12} {'gold':>20} {'peak at':>8} {'hacked at':>9} {'drift at':>8}"
    for curve in study.curves:
        name = f"{curve.case.trained_on} {curve.case.sign}"
        peak, proxy, gold_ = curve.peak(), curve.ends(curve.proxy), curve.ends(curve.gold)
        yield (
            f"{name:>14} {curve.seed:4} {proxy[0]:5.1%} {proxy[1]:6.1%} {gold_[0]:6.1%} {peak.value:6.1%}"
            f" {gold_[1]:6.1%} {peak.step:8} {curve.first_alarm(2) or '-':>9} {curve.first_alarm(1) or '-':>8}"
        )


def main() -> None:
    """Trains or reads, prints the table, writes the JSON and, if asked for, the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, help="3 by default, 1 if quick")
    for name, value in asdict(Setting()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), help=f"{value} by default")
    parser.add_argument("--folder", type=Path, default=Path("runs/overoptimisation"), help="of the runs; must be new")
    parser.add_argument("--output", type=Path, default=Path("overoptimisation.json"))
    parser.add_argument("--from", dest="source", type=Path, help="draw an earlier JSON again, train nothing")
    parser.add_argument("--plot", type=Path, help="PNG or SVG")
    options = parser.parse_args()
    if options.source:
        study = Study.read(options.source)
    else:
        given = {name: getattr(options, name) for name in asdict(Setting())}
        setting = replace(
            QUICK if options.quick else Setting(), **{name: value for name, value in given.items() if value is not None}
        )
        with quiet_libraries():
            seeds = range(options.seeds or (1 if options.quick else 3))
            study = run_all(setting, seeds, options.folder, TerminalScreen(open_console()))
        study.write(options.output)
    print("\n".join(table(study)))
    if options.plot:
        figure(study).savefig(options.plot)


if __name__ == "__main__":
    main()
