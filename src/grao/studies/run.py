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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from grao.config import Recipe, dump_recipe, load_recipe
from grao.config.reward import RewardConfig
from grao.config.strict_yaml import write_inline
from grao.errors import InputError, RewardUnavailableError
from grao.records.evaluation import Answer, Evaluation, read_items
from grao.records.files import replace_text
from grao.records.manifest import now, read_manifest, update_manifest, write_manifest
from grao.reports.page import write_report
from grao.rewards.judge import CRITERIA
from grao.studies.evaluate import evaluate_policy, held_out, record_answers
from grao.studies.judges import ledger_path, words
from grao.studies.prepare import Prepared, claim, expected_of_judges, prepare
from grao.studies.screen import Screen
from grao.training.callbacks import InterruptGuard, SaveLastStep
from grao.training.trainer import GRAOTrainer


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
    if ready.trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / "recipe.yaml", dump_recipe(_anchored(recipe)))
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
    ready = prepare(load_recipe(folder / "recipe.yaml", [("output", write_inline(str(folder)))]))
    if ready.manifest["data"]["fingerprint"] != manifest["data"]["fingerprint"]:
        path = ready.recipe.data.path
        raise InputError(f"data.path: {path} has changed since {folder} began; restore it, or start a new run")
    checkpoint = _last_checkpoint(folder)
    if checkpoint is None and ready.trainer.is_world_process_zero():
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    _note(ready, status="running")
    screen.say(f"going on from {checkpoint.name}" if checkpoint else "no checkpoint yet: starting at step 1")
    return _carry_out(ready, screen, checkpoint)


def _carry_out(ready: Prepared, screen: Screen, checkpoint: Path | None) -> Finished:
    trainer, folder, evaluation = ready.trainer, ready.recipe.output, None
    evaluated = trainer.eval_items is not None
    with _accounted(ready):
        before = _answers_before(ready, screen) if evaluated else []
        _train(ready, screen, checkpoint)
        trainer.save_model(str(folder / "model"))
        (folder / "model" / "training_args.bin").unlink(missing_ok=True)  # a pickle, and manifest.json says more
        if evaluated:
            after = evaluate_policy(ready, screen, "after")
            evaluation = record_answers(ready, {"before": before, "after": after})
    _note(ready, status="finished", finished=now())
    report = write_report(folder) if trainer.is_world_process_zero() else folder / "report.html"
    return Finished(folder, evaluation, report)


def _answers_before(ready: Prepared, screen: Screen) -> list[Answer]:
    """From the records of a resumed run; given anew where these are missing or damaged."""
    try:
        before = [item.answers["before"] for item in read_items(ready.recipe.output)]
    except (ValidationError, KeyError):
        before = []
    if len(before) != len(held_out(ready)):
        before = evaluate_policy(ready, screen, "before")
        record_answers(ready, {"before": before})
    return before


def _train(ready: Prepared, screen: Screen, checkpoint: Path | None) -> None:
    trainer = ready.trainer
    with InterruptGuard(screen.say) as interrupt, screen.training(ready.steps) as shown:
        for callback in (SaveLastStep(), interrupt, shown):
            trainer.add_callback(callback)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except (InputError, RewardUnavailableError) as error:
            if trainer.state.global_step == 0:
                raise
            raise type(error)(f"{error}; {_save(trainer)}") from error
    if interrupt.interrupted:
        raise StoppedError(f"stopped, step {trainer.state.global_step} of {ready.steps} is saved")


def _save(trainer: GRAOTrainer) -> str:
    """After an error: saves if this process can do it alone, and says what there is to go on from."""
    if trainer.accelerator.num_processes > 1:
        return "the last checkpoint counts"
    trainer.save_checkpoint()
    return f"step {trainer.state.global_step} is saved"


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest one that is complete: the trainer's state is written last, and its closing brace ends it."""
    states = (folder / "checkpoints").glob("checkpoint-*/trainer_state.json")
    complete = [state.parent for state in states if state.read_bytes().endswith(b"\n}\n")]
    return max(complete, key=lambda checkpoint: int(checkpoint.name.removeprefix("checkpoint-")), default=None)


@contextmanager
def _accounted(ready: Prepared) -> Iterator[None]:
    """However a run ends early, its manifest says so and the user reads how to go on."""
    go_on = f"continue with: grao train --resume {ready.recipe.output}"
    try:
        yield
    except (InputError, RewardUnavailableError) as error:
        _note(ready, status="failed")
        raise type(error)(f"{error}, {go_on}") from error
    except KeyboardInterrupt as stop:
        _note(ready, status="interrupted")
        raise StoppedError(f"{str(stop) or 'stopped'}; {go_on}") from None
    except Exception:
        with suppress(OSError):
            _note(ready, status="failed")
        raise


def _note(ready: Prepared, **values: Any) -> None:
    """Sets keys of the manifest, once for all processes."""
    if ready.trainer.is_world_process_zero():
        update_manifest(ready.recipe.output, **values)


def _anchored(recipe: Recipe) -> Recipe:
    """The recipe with absolute paths to what lies here, so that the run can be resumed from any folder."""
    data, second = recipe.data, recipe.audit.second
    return replace(
        recipe,
        model=replace(recipe.model, path=_absolute(recipe.model.path)),
        data=replace(data, path=_absolute(data.path), test_path=data.test_path and _absolute(data.test_path)),
        rewards=[_anchored_reward(reward, recipe.output) for reward in recipe.rewards],
        watch=recipe.watch and replace(recipe.watch, reward=_anchored_reward(recipe.watch.reward, recipe.output)),
        audit=replace(recipe.audit, second=second and _anchored_reward(second, recipe.output)),
    )


def _anchored_reward(reward: RewardConfig, output: Path) -> RewardConfig:
    file, colon, name = (reward.function or "").rpartition(":")
    if file.endswith(".py"):
        return replace(reward, function=_absolute(file) + colon + name)
    if judge := reward.judge:
        local = judge.local and replace(judge.local, path=_absolute(judge.local.path))
        criterion = judge.criterion if judge.criterion in CRITERIA else _absolute(judge.criterion)
        ledger = ledger_path(judge, output).absolute()
        return replace(reward, judge=replace(judge, local=local, criterion=criterion, ledger=ledger))
    if reward.model:
        return replace(reward, model=replace(reward.model, path=_absolute(reward.model.path)))
    if reward.rule and (encoder := reward.rule.embedding):
        return replace(reward, rule=replace(reward.rule, embedding=replace(encoder, model=_absolute(encoder.model))))
    return reward


def _absolute(path: str) -> str:
    """What does not lie here stays as it is; it may be a hub id."""
    found = Path(path).expanduser()
    return str(found.absolute()) if found.exists() else path


def _introduce(ready: Prepared, screen: Screen) -> None:
    data, weights = ready.manifest["data"], ready.manifest["weights"]
    screen.say(
        f"{data['prompts']:,} prompts, {data['held_out']:,} held out; "
        f"{weights['trained']:,} of {weights['all']:,} weights are trained"
    )
    for reason, count in data["left_out"].items():
        screen.say(f"left out: {count:,} rows, {reason}")
    for forecast in expected_of_judges(ready):
        screen.say(words(forecast))
