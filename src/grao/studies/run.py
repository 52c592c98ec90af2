"""One run from a recipe: evaluate, train, evaluate again, report. Everything it leaves lies in one folder.

manifest.json   recipe, versions, seed, data fingerprint, how it ended
recipe.yaml     the recipe with all defaults; `--resume` reads it
metrics.jsonl   one line per optimiser step
items.jsonl     every held-out prompt with its answers and verdicts
evaluation.json the numbers, recomputable from items.jsonl
checkpoints/    optimiser and weights, to go on from
model/          the result
report.html     all of it to look at
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from grao.config import Recipe, dump_recipe, load_recipe
from grao.errors import InputError, RewardUnavailableError
from grao.records.evaluation import Evaluation, read_items
from grao.records.manifest import now, read_manifest, update_manifest, write_manifest
from grao.reports.page import write_report
from grao.studies.evaluate import evaluate_policy, record_answers
from grao.studies.prepare import Prepared, claim, prepare
from grao.studies.screen import Screen
from grao.training.callbacks import InterruptCallback


class StoppedError(KeyboardInterrupt):
    """Ctrl-C, with everything saved. Its text says how to go on."""


@dataclass(frozen=True)
class Finished:
    """What a run came to."""

    folder: Path
    evaluation: Evaluation | None
    report: Path


def start_run(recipe: Recipe, screen: Screen) -> Finished:
    """Runs a recipe in a new folder.

    Raises:
        InputError: for a mistake in recipe, data, model or reward. Before training nothing is left behind.
        RewardUnavailableError: if the reward fails later; the checkpoint is saved.
        StoppedError: after Ctrl-C; the checkpoint is saved.
    """
    folder = recipe.output
    claim(folder)
    ready = prepare(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    write_manifest(folder, ready.manifest)
    _introduce(ready, screen)
    return _carry_out(ready, screen, checkpoint=None)


def resume_run(folder: Path, screen: Screen) -> Finished:
    """Goes on with a run from its last checkpoint, as if it had never stopped.

    Raises:
        InputError: if there is no unfinished run in the folder, or its data have changed.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(f"{folder} holds no run to resume: there is no manifest.json in it")
    if manifest.get("status") == "finished":
        raise InputError(f"{folder} is finished; look at it with `grao report {folder}`")
    ready = prepare(load_recipe(folder / "recipe.yaml", [("output", str(folder))]))
    if ready.manifest["data"]["fingerprint"] != manifest["data"]["fingerprint"]:
        path = ready.recipe.data.path
        raise InputError(f"data.path: {path} has changed since {folder} began; restore it, or start a new run")
    checkpoints = folder / "checkpoints"
    checkpoint = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    if checkpoint is None:
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    update_manifest(folder, status="running")
    screen.say(f"going on from {Path(checkpoint).name}" if checkpoint else "no checkpoint yet: starting at step 1")
    return _carry_out(ready, screen, checkpoint)


def _carry_out(ready: Prepared, screen: Screen, checkpoint: str | None) -> Finished:
    trainer, folder = ready.trainer, ready.recipe.output
    with _accounted(ready):
        before = [item.answers["before"] for item in read_items(folder)]
        if not before:
            before = evaluate_policy(ready, screen, "before")
            record_answers(ready, folder, {"before": before})
        _train(ready, screen, checkpoint)
        trainer.save_model(str(folder / "model"))
        (folder / "model" / "training_args.bin").unlink(missing_ok=True)  # a pickle, and manifest.json says more
        after = evaluate_policy(ready, screen, "after")
        evaluation = record_answers(ready, folder, {"before": before, "after": after})
    update_manifest(folder, status="finished", finished=now())
    return Finished(folder, evaluation, write_report(folder))


def _train(ready: Prepared, screen: Screen, checkpoint: str | None) -> None:
    trainer = ready.trainer
    interrupt = InterruptCallback(screen.say)
    trainer.add_callback(interrupt)
    trainer.add_callback(screen.training(ready.steps))
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except (InputError, RewardUnavailableError) as error:
        step = trainer.state.global_step
        if step == 0:
            raise
        trainer.save_checkpoint()
        raise type(error)(f"{error}; step {step} is saved") from error
    if interrupt.interrupted and trainer.state.global_step < ready.steps:
        raise StoppedError(f"stopped, step {trainer.state.global_step} of {ready.steps} is saved")


@contextmanager
def _accounted(ready: Prepared) -> Iterator[None]:
    """However a run ends early, its manifest says so and the user reads how to go on."""
    folder = ready.recipe.output
    go_on = f"continue with: grao train --resume {folder}"
    try:
        yield
    except (InputError, RewardUnavailableError) as error:
        update_manifest(folder, status="failed")
        raise type(error)(f"{error}, {go_on}") from error
    except KeyboardInterrupt as stop:
        update_manifest(folder, status="interrupted")
        raise StoppedError(f"{str(stop) or 'stopped'}; {go_on}") from None


def _introduce(ready: Prepared, screen: Screen) -> None:
    data, weights = ready.manifest["data"], ready.manifest["weights"]
    screen.say(
        f"{data['prompts']:,} prompts, {data['held_out']:,} held out; "
        f"{weights['trained']:,} of {weights['all']:,} weights are trained"
    )
    for reason, count in data["left_out"].items():
        screen.say(f"left out: {count:,} rows, {reason}")
