"""`grao train`: runs a recipe: evaluate, train, evaluate again, report. All results go into one folder.

manifest.json   recipe, versions, seed, data fingerprint, status
recipe.yaml     recipe with all defaults; `--resume` reads it
metrics.jsonl   one line per optimizer step
samples.jsonl   completions of one group every few steps
items.jsonl     every held-out prompt with its answers and verdicts
evaluation.json results, recomputable from items.jsonl
checkpoints/    optimizer and weights, to resume from
model/          the trained model
report.html     report page
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from grao.command import command
from grao.config.load import Overrides, dump_recipe, load_recipe
from grao.config.recipe import Recipe
from grao.data.facts import short_facts
from grao.errors import BrokenNumbersError, InputError, RewardUnavailableError
from grao.records import run as records
from grao.records.checkpoints import step_of
from grao.records.files import replace_text
from grao.records.lock import locked
from grao.records.run import Doubt, Evaluation, RecordedAnswer, now
from grao.reports.run import write_report
from grao.rewards.judge.wording import context_text
from grao.studies.content import short_audit
from grao.studies.doubts import training_reward_only
from grao.studies.forecast import judge_forecasts
from grao.studies.held_out import answer_format, answer_held_out, held_out, record_answers
from grao.studies.prepare import LastSample, Prepared, Screen, claim_folder, prepare
from grao.studies.settings import first_change, with_absolute_paths
from grao.training.arguments import library_errors
from grao.training.callbacks import InterruptGuard, SaveLastStep
from grao.training.library import log_scores
from grao.training.reporting import begin_reporting
from grao.training.stages import StageProgress
from grao.training.state import CARRIED
from grao.training.trainer import GRAOTrainer


class StoppedError(KeyboardInterrupt):
    """Stopped by Ctrl-C, SIGTERM or SIGHUP, with everything saved. The message says how to resume."""


@dataclass(frozen=True)
class Finished:
    """The outcome of a run."""

    folder: Path
    evaluation: Evaluation | None
    report: Path


def start_run(recipe: Recipe, screen: Screen) -> Finished:
    """Run a recipe in a new folder.

    Raises:
        InputError: for a mistake in recipe, data, model or reward; before training, nothing is left behind.
        RewardUnavailableError: if the reward fails later; a checkpoint is saved.
        BrokenNumbersError: if weights or gradients become NaN or infinite; the last checkpoint remains.
        StoppedError: after Ctrl-C, SIGTERM or SIGHUP; a checkpoint is saved.
    """
    folder = recipe.output
    with claim_folder(folder):
        ready = _load(recipe, screen)
        _introduce(ready, screen)
        audited = recipe.audit.before_training != "skip"
        screen.phases(audited + _phases(ready, []))
        if audited:
            _check_rewards(ready, screen)
        if ready.trainer.is_world_process_zero():
            folder.mkdir(parents=True, exist_ok=True)
            replace_text(folder / "recipe.yaml", dump_recipe(with_absolute_paths(recipe)))
            records.write_manifest(folder, ready.manifest)
        return _carry_out(ready, screen, None, [])


def resume_run(folder: Path, screen: Screen, overrides: Overrides = ()) -> Finished:
    """Resume a run from its last complete checkpoint, as if it had never stopped; a finished run needs more steps.

    Args:
        folder: of the run.
        screen: shows progress.
        overrides: changed fields of its recipe and their YAML: `training.steps`, and settings that do not affect the
            result.

    Raises:
        InputError: if there is nothing to resume in the folder, it is in use, or data, model or settings have changed.
        BrokenNumbersError, RewardUnavailableError, StoppedError: as `start_run`.
    """
    with locked(folder):
        manifest = records.read_manifest(folder)
        if manifest is None:
            raise InputError(f"{folder} is not a run to resume: there is no manifest.json in it")
        finished = manifest.status == "finished"
        if finished and not overrides:
            more = "give it more steps with --training.steps"
            raise InputError(f"{folder} is finished; see it with `{command('report', folder)}`, or {more}")
        ready = _load(load_recipe(folder / "recipe.yaml", overrides, [("output", str(folder))]), screen)
        _check_unchanged(ready, manifest, overrides)
        checkpoint, passed = ready.trainer.last_checkpoint()
        carried = CARRIED.read(checkpoint) if checkpoint else None
        ready = replace(ready, steps=ready.trainer.conductor.steps(carried.reached)) if carried else ready
        _check_steps(ready, step_of(checkpoint), finished, carried.reached if carried else StageProgress())
        if ready.trainer.is_world_process_zero():
            if checkpoint is None:
                (folder / "metrics.jsonl").unlink(missing_ok=True)
            _record_resume(ready, manifest, overrides)
        none = "no complete checkpoint is left" if passed else "no checkpoint yet"
        for line in (*passed, f"resuming from {checkpoint.name}" if checkpoint else f"{none}: starting at step 1"):
            screen.say(line)
        before = _recorded_before(ready)
        screen.phases(_phases(ready, before))
        return _carry_out(ready, screen, checkpoint, before)


def _load(recipe: Recipe, screen: Screen) -> Prepared:
    screen.follow(recipe)
    with screen.stage("loading data, model and rewards"):
        return prepare(recipe)


def _phases(ready: Prepared, before: list[RecordedAnswer]) -> int:
    """Count the phases of `_carry_out`: answers before training unless recorded, training, answers after, report."""
    return 3 + (ready.trainer.eval_items is not None and not before)


def _carry_out(ready: Prepared, screen: Screen, checkpoint: Path | None, before: list[RecordedAnswer]) -> Finished:
    trainer, folder, evaluation = ready.trainer, ready.recipe.output, None
    evaluated = trainer.eval_items is not None
    with _status_recorded(ready):
        begin_reporting(trainer, ready.recipe.training.trainer)
        if evaluated and not before:
            before = _answers_before(ready, screen)
        _train(ready, screen, checkpoint)
        with screen.stage(_judging(ready, "trained") if evaluated else "saving the model") as advance:
            trainer.save_policy(folder / "model")
            best = trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint
            saved = step_of(Path(best)) if best else trainer.state.global_step
            _update_manifest(ready, saved=saved, steps=trainer.state.max_steps)
            if evaluated:
                after = answer_held_out(ready, advance, parts=3)  # the third compares with the start model
                doubts = [*_doubts_about_rewards(ready), training_reward_only()]
                evaluation = record_answers(ready, {"before": before, "after": after}, doubts)
                log_scores(trainer, evaluation)
    _update_manifest(ready, status="finished", finished=now())
    try:
        with screen.stage("writing the report"):
            report = write_report(folder) if trainer.is_world_process_zero() else folder / "report.html"
    except KeyboardInterrupt:
        raise StoppedError(f"stopped; all is done but the report, write it with: {command('report', folder)}") from None
    return Finished(folder, evaluation, report)


def _check_rewards(ready: Prepared, screen: Screen) -> None:
    """Do the short audit: warn about rewards that ignore content, or with `before_training: stop` end the run."""
    with screen.stage("checking the rewards on wrong answers"):
        doubts = broadcast_object_list([_doubts_about_rewards(ready)])[0]  # all processes stop, or none
    for doubt in doubts:
        if ready.recipe.audit.before_training == "stop":
            raise InputError(f"{doubt.words} Set audit.before_training: warn to train anyway")
        screen.say(f"warning: {doubt.words} See `grao reward audit` with the same options.")


def _doubts_about_rewards(ready: Prepared) -> list[Doubt]:
    """Return doubts from the short audit; the second time, a judge on a server answers from its ledger."""
    trainer = ready.trainer
    examples = [item.example for item in trainer.train_items.items]
    return short_audit(ready.recipe, trainer.rewards, examples, trainer.tokenizer, trainer.is_world_process_zero())


def _check_unchanged(ready: Prepared, recorded: records.Manifest, overrides: Overrides) -> None:
    """Check that a run to be resumed still has its data, model and settings.

    Raises:
        InputError: naming the data, the setting or the file that has changed.
    """
    folder, recipe = ready.recipe.output, ready.recipe
    if ready.manifest.data.fingerprint != recorded.data.fingerprint:
        raise InputError(
            f"data.path: {recipe.data.path} has changed since {folder} began; restore it, or start a new run"
        )
    if recorded.decisive and (change := first_change(recorded.decisive, ready.manifest.decisive)):
        overridden = any(change.startswith(name) for name, _ in overrides)
        where, remedy = ("--", "leave it out") if overridden else (f"{folder}/recipe.yaml: ", "restore it")
        raise InputError(f"{where}{change} since the run began; {remedy}, or start a new run")


def _check_steps(ready: Prepared, done: int, finished: bool, reached: StageProgress) -> None:
    """Check that a run to be resumed has steps left.

    Args:
        ready: the run; its steps include all stages.
        done: steps done so far.
        finished: whether the run is finished.
        reached: its position in its stages.

    Raises:
        InputError: if none are left, naming the setting that limits them.
    """
    folder, steps, plan = ready.recipe.output, ready.steps, ready.trainer.conductor.plan
    if finished and not done:
        raise InputError(f"{folder} is finished and has no complete checkpoint to resume from; start a new run")
    if steps < done or (finished and steps == done):
        last, until = len(plan) - 1, plan[-1].until
        if reached.ended:
            raise InputError(f"{folder} is finished: stages.{last}.until ended it; start a new run")
        limit, taken, stage = steps - reached.first, done - reached.first, " in its last stage" * (last > 0)
        setting, remedy = "training.steps", "give more"
        if until is not None and until.steps is not None:
            setting, remedy = f"stages.{last}.until.steps", "start a new run"
        raise InputError(f"{setting} is {limit}, but {folder} has done {taken}{stage}; {remedy}")


def _record_resume(ready: Prepared, before: records.Manifest, overrides: Overrides) -> None:
    """Record that a run is resumed, and its settings from here on."""
    folder, manifest, earlier = ready.recipe.output, ready.manifest, before.earlier
    if before.steps not in (None, ready.steps):
        earlier = [*earlier, records.EarlierEnd(steps=before.steps, finished=before.finished)]
    if overrides:
        replace_text(folder / "recipe.yaml", dump_recipe(with_absolute_paths(ready.recipe)))
    _update_manifest(ready, status="running", finished=None, config=manifest.config, steps=ready.steps, earlier=earlier)


def _answers_before(ready: Prepared, screen: Screen) -> list[RecordedAnswer]:
    with screen.stage(_judging(ready, "start")) as advance:
        before = answer_held_out(ready, advance)
        log_scores(ready.trainer, record_answers(ready, {"before": before}))
    return before


def _recorded_before(ready: Prepared) -> list[RecordedAnswer]:
    """Return the start model's answers from the records of a resumed run; empty if missing or damaged."""
    with suppress(InputError, KeyError):
        before = [item.answers["before"] for item in records.read_items(ready.recipe.output)]
        return before if len(before) == len(held_out(ready)) else []
    return []


def _judging(ready: Prepared, which: str) -> str:
    return f"judging {len(held_out(ready)):,} prompts with the {which} model"


def _last_samples(trainer: GRAOTrainer, count: int) -> Sequence[LastSample]:
    """Return one completion for each of the first `count` prompts of the last step, on this process."""
    last = trainer.source.last
    if last is None or not last.sampled:
        return []
    rows = zip(last.groups[:count], last.rewards.total.tolist(), strict=False)
    return [LastSample(context_text(group.item.example.prompt), group.texts[0], rewards[0]) for group, rewards in rows]


def _train(ready: Prepared, screen: Screen, checkpoint: Path | None) -> None:
    trainer = ready.trainer
    samples = partial(_last_samples, trainer)
    with InterruptGuard(screen.say) as interrupt, screen.training(ready.steps, samples) as progress:
        for callback in (SaveLastStep(), interrupt, progress):
            trainer.add_callback(callback)
        try:
            with library_errors(ready.recipe.training.trainer):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except (InputError, RewardUnavailableError) as error:
            if trainer.state.global_step == 0:
                raise
            saved = "nothing is saved" if trainer.is_deepspeed_enabled else "the last checkpoint remains"
            # With several processes the others may not have failed, so no checkpoint can be saved here.
            if trainer.accelerator.num_processes == 1 and trainer.save_checkpoint():
                saved = f"step {trainer.state.global_step} is saved"
            raise type(error)(f"{error}; {saved}") from error
    if interrupt.interrupted:
        step = f"step {trainer.state.global_step} of {trainer.state.max_steps}"
        saved = f" at {step}, nothing is saved" if trainer.is_deepspeed_enabled else f", {step} is saved"
        raise StoppedError(f"stopped{saved}")


@contextmanager
def _status_recorded(ready: Prepared) -> Iterator[None]:
    """If a run ends early, record its status in the manifest and tell the user how to resume."""
    resume = f"continue with: {command('train', '--resume', ready.recipe.output)}"
    if ready.trainer.is_deepspeed_enabled:
        resume = "start a new run in another folder"
    status = "failed"
    try:
        yield
        status = ""
    except (InputError, RewardUnavailableError, BrokenNumbersError) as error:
        raise type(error)(f"{error}, {resume}") from error
    except KeyboardInterrupt as stop:
        status = "interrupted"
        raise StoppedError(f"{str(stop) or 'stopped'}; {resume}") from None
    except Exception as error:
        error.add_note(resume)
        raise
    finally:
        if status:
            with suppress(OSError):  # such as a full disk, which the error already reports
                _update_manifest(ready, status=status)


def _update_manifest(ready: Prepared, **values: Any) -> None:
    """Set keys of the manifest, on the main process only."""
    if ready.trainer.is_world_process_zero():
        records.update_manifest(ready.recipe.output, **values)


def _introduce(ready: Prepared, screen: Screen) -> None:
    data, weights = ready.manifest.data, ready.manifest.weights
    trained = f"{weights.trained:,} of {weights.all:,} weights are trained"
    screen.say(f"{data.prompts:,} prompts, {data.held_out:,} held out; {trained}")
    trainer, sizes = ready.trainer, ""
    if trainer.accelerator.device.type == "cuda":
        tokens, rows = trainer.learner.budget.size, trainer.rows
        sizes = f"micro-batches of up to {tokens:,} tokens, {rows:,} completions at once"
    left_out = (f"left out: {count:,} rows, {reason}" for reason, count in data.left_out.items())
    for line in (
        answer_format(ready),
        *filter(None, (ready.note, sizes)),
        *left_out,
        *short_facts(trainer.train_items, trainer.eval_items, ready.recipe.data, ready.recipe.rollout.max_new_tokens),
        *(forecast.words for forecast in judge_forecasts(ready)),
    ):
        screen.say(line)
    screen.copyable(f"in a browser, while it runs: {command('watch', ready.recipe.output)}")
