"""From a recipe to objects: data, rewards, model and trainer. Everything that can go wrong before training."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, PrinterCallback, ProgressCallback

from grao.config import Recipe
from grao.config.fields import ADAPTER
from grao.config.recipe import GRAOConfig
from grao.data import Example, fingerprint, load_split
from grao.data.split import Split
from grao.errors import InputError
from grao.models import add_adapter, load_model, load_tokenizer, parameter_count
from grao.records.audit import JudgeForecast
from grao.records.manifest import Manifest, git_revision, installed_versions, now
from grao.rewards import Mix, RewardBatch
from grao.studies.judges import judge_forecasts
from grao.studies.rewards import judges, make_rewards, make_watch
from grao.training.trainer import GRAOTrainer

_PROBES = 2
"""References that the rewards are tried on."""


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to begin."""

    recipe: Recipe
    trainer: GRAOTrainer
    steps: int
    manifest: Manifest


def claim(folder: Path) -> None:
    """Makes sure that a run may write into a folder; makes nothing.

    Raises:
        InputError: if it holds another run, or is no folder and cannot become one.
    """
    if any((folder / name).exists() for name in ("manifest.json", "metrics.jsonl", "items.jsonl")):
        raise InputError(
            f"output: {folder} already holds a run; continue it with `grao train --resume {folder}`, "
            "or choose another folder"
        )
    check_writable(folder)


def check_writable(folder: Path) -> None:
    """Makes sure that a folder is there or can be made.

    Raises:
        InputError: if not.
    """
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise InputError(f"output: {nearest} is a file; choose a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"output: {nearest} is not writable; choose another folder")


def prepare(recipe: Recipe, split: Split | None = None) -> Prepared:
    """Loads and checks everything; writes nothing.

    Args:
        recipe: of the run.
        split: training and held-out examples; by default those of the recipe.

    Raises:
        InputError: for a mistake in recipe, data, model or rewards.
    """
    split = split or load_split(recipe.data, recipe.seed)
    rewards, watch = make_rewards(recipe), make_watch(recipe)
    chosen, lora = recipe.model, recipe.model.lora
    model = load_model(chosen.path, chosen.dtype, chosen.attention, chosen.trust_remote_code)
    tokenizer = load_tokenizer(chosen.path, chosen.trust_remote_code)
    for mix in (rewards, *([watch.reward] if watch else [])):
        probe(mix, split.train, tokenizer)
    policy = add_adapter(model, lora.rank, lora.alpha, lora.dropout, lora.target_modules) if lora else model
    held_out = split.test if recipe.evaluation.enabled else []
    config = _trainer_config(recipe)
    with _nothing_made(Path(config.output_dir, "checkpoints")):
        trainer = GRAOTrainer(policy, config, split.train, rewards, held_out or None, tokenizer, watch=watch)
    trainer.accelerator.wait_for_everyone()
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
    encoded, tested = trainer.train_items, trainer.eval_items
    long = encoded.dropped + (tested.dropped if tested else 0)
    data = {
        "prompts": len(encoded.items),
        "held_out": len(tested.items) if tested else 0,
        "left_out": {**split.skipped, **({"prompt too long": long} if long else {})},
        "fingerprint": fingerprint([*split.train, *split.test]),
    }
    weights = {"all": parameter_count(policy), "trained": parameter_count(policy, trainable=True)}
    steps = trainer.args.max_steps
    return Prepared(recipe, trainer, steps, _manifest(recipe, data, weights, steps))


def expected_of_judges(ready: Prepared) -> list[JudgeForecast]:
    """See `judge_forecasts`."""
    trainer, data = ready.trainer, ready.manifest["data"]
    items, processes = trainer.train_items.items, trainer.accelerator.num_processes
    sizes = (ready.steps, data["held_out"], processes)
    return judge_forecasts(ready.recipe, trainer.rewards, trainer.watch, items, *sizes)


@contextmanager
def _nothing_made(folder: Path) -> Iterator[None]:
    """Takes away the empty folders that transformers' Trainer makes as soon as it is built."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def probe(rewards: Mix, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> None:
    """Asks the rewards about a few references, so that a broken one is found before any work is done."""
    for judge in judges(rewards):
        judge.check()
    examples = examples[:_PROBES]
    references = [example.reference for example in examples]
    ids = tokenizer(references, add_special_tokens=False)["input_ids"]
    rewards(
        RewardBatch(
            prompts=[example.prompt for example in examples],
            completions=[[reference] for reference in references],
            references=references,
            columns=[example.columns for example in examples],
            completion_ids=[[reference] for reference in ids],
            reference_ids=ids,
        )
    )


def _trainer_config(recipe: Recipe) -> GRAOConfig:
    return GRAOConfig(
        output_dir=recipe.output,
        seed=recipe.seed,
        end_token=recipe.model.end_token,
        data=recipe.data,
        rollout=recipe.rollout,
        method=recipe.method,
        training=recipe.training,
    )


def _manifest(recipe: Recipe, data: dict[str, Any], weights: dict[str, int], steps: int) -> Manifest:
    return {
        "status": "running",
        "started": now(),
        "finished": None,
        "command": f"grao train --config {recipe.output}/recipe.yaml --output {recipe.output}-again",
        "config": ADAPTER.dump_python(recipe, mode="json", by_alias=True),
        "seed": recipe.seed,
        "steps": steps,
        "data": data,
        "weights": weights,
        "versions": installed_versions(),
        "git": git_revision(),
    }
