"""Records and report of a run made with `GRAOTrainer` in a script: the same files that `grao train` writes.

items.jsonl, evaluation.json   written by `evaluate()`, before and after training
metrics.jsonl, samples.jsonl   written by `train()`
manifest.json, report.html     written by `report()`
"""

import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from pydantic import TypeAdapter
from transformers import Trainer

from grao.config.library import GRAOConfig
from grao.engine.loading import parameter_count
from grao.errors import InputError
from grao.evaluation.answers import Jury, sample_answers
from grao.evaluation.doubts import doubts
from grao.evaluation.metrics import evaluation_from_items
from grao.records import run as records
from grao.records.run import DataFacts, Evaluation, Manifest, RecordedAnswer, WeightCounts
from grao.reports.run import write_report
from grao.rollouts.base import Sampling
from grao.types import Encoded

if TYPE_CHECKING:
    from grao.training.trainer import GRAOTrainer

BEFORE, AFTER = "before", "after"


def held_out_metrics(trainer: "GRAOTrainer", items: Sequence[Encoded], recorded: bool) -> dict[str, float]:
    """Sample one answer of the current policy to each prompt, and measure them against the references.

    Args:
        trainer: samples and scores as in training.
        items: prompts with references.
        recorded: whether these are the trainer's held-out prompts, whose answers go into the records.

    Returns:
        `verdict_shares` and, if recorded, `headline_numbers`.

    Raises:
        InputError: before any sampling, if the records of another evaluation would be overwritten.
    """
    if recorded:
        check_records(trainer)
    answers = judged_answers(trainer, items)
    return verdict_shares(answers) | (headline_numbers(record_evaluation(trainer, answers)) if recorded else {})


def judged_answers(trainer: "GRAOTrainer", items: Sequence[Encoded]) -> list[RecordedAnswer]:
    """Sample one answer of the current policy to each of N prompts, and score it against the reference.

    Args:
        trainer: samples and scores as in training.
        items: N prompts with references.
    """
    rollout = trainer.config.rollout
    sampling = Sampling(1, rollout.temperature, rollout.top_p, rollout.max_new_tokens)
    answers = sample_answers(items, trainer.sampler(), sampling, trainer.tokenizer, trainer.config.seed)
    # During training an evaluation without rewards must not end the run.
    return Jury(trainer.rewards).judge(items, answers, needed=not trainer.is_in_train)


def verdict_shares(answers: Sequence[RecordedAnswer]) -> dict[str, float]:
    """Return mean reward and shares of wins, ties and losses against the reference.

    Answers without a reward are left out; all values are NaN if none has one.
    """
    rewards = [answer.reward for answer in answers if answer.reward is not None]
    if not rewards:
        return dict.fromkeys(("reward", "win", "tie", "lose"), math.nan)
    wins, losses = sum(reward > 0 for reward in rewards), sum(reward < 0 for reward in rewards)
    outcomes = {"win": wins, "tie": rewards.count(0.0), "lose": losses}
    return {"reward": sum(rewards) / len(rewards), **{name: count / len(rewards) for name, count in outcomes.items()}}


def headline_numbers(evaluation: Evaluation) -> dict[str, float]:
    """Return RAS of the last model and, if there is an earlier one, NAG; numbers without data are left out."""
    scores = [*evaluation.models.values()][-1]
    numbers = {"ras": scores.ras, "ras_win_or_tie": scores.ras_win_or_tie}
    if evaluation.gains:
        numbers["nag"] = evaluation.gains[-1].nag
    return {name: estimate.value for name, estimate in numbers.items() if estimate.n}


def log_scores(trainer: Trainer, evaluation: Evaluation) -> None:
    """Send `headline_numbers` to the services of `report_to`."""
    trainer.log({f"eval_{name}": value for name, value in headline_numbers(evaluation).items()})


def check_records(trainer: "GRAOTrainer") -> None:
    """Check that an evaluation before training overwrites no other.

    Raises:
        InputError: if the trainer's folder holds records of another run or evaluation.
    """
    others = {name for item in records.read_items(Path(trainer.folder)) for name in item.answers} - {BEFORE}
    if others and not trainer.state.global_step:
        raise InputError(f"{trainer.folder} already holds another run or evaluation; choose another output_dir")


def record_evaluation(trainer: "GRAOTrainer", answers: Sequence[RecordedAnswer]) -> Evaluation:
    """Write `items.jsonl` and `evaluation.json` of the model before training, or of both before and after.

    Args:
        trainer: at step 0 the answers are those before training.
        answers: scored answers to the trainer's held-out prompts.
    """
    encoded, folder = trainer.eval_items, Path(trainer.folder)
    assert encoded is not None  # noqa: S101
    recorded = records.read_items(folder)
    trained = trainer.state.global_step > 0
    same = [item.id for item in recorded] == [item.example.id for item in encoded.items]
    before = [item.answers[BEFORE] for item in recorded if BEFORE in item.answers] if trained and same else []
    answers_before = {BEFORE: before} if before else {}
    items = Jury(trainer.rewards).items(encoded.items, {**answers_before, AFTER if trained else BEFORE: list(answers)})
    evaluation = evaluation_from_items(items)
    judges = [f"reward {reward.name}" for reward in trainer.rewards.rewards]
    evaluation = replace(evaluation, judges=judges, doubts=doubts(items, evaluation))
    if trainer.is_world_process_zero():
        records.write_evaluation(folder, evaluation, items)
    return evaluation


def write_page(trainer: "GRAOTrainer") -> Path:
    """Write `manifest.json` and `report.html`; return the path of the latter."""
    folder, done = Path(trainer.folder), trainer.state.global_step
    if trainer.is_world_process_zero():
        stopped = trainer.control.should_training_stop and not trainer.is_in_train
        settings = TypeAdapter(GRAOConfig).dump_python(trainer.config, mode="json", by_alias=True)
        if trainer.custom_method:
            settings["method"] = {"name": trainer.custom_method.name}
        model = {"path": str(getattr(trainer.accelerator.unwrap_model(trainer.model).config, "_name_or_path", ""))}
        config = {
            "model": model,
            **{name: settings[name] for name in ("data", "rollout", "method", "stages", "training", "seed")},
        }
        facts = {
            "steps": trainer.state.max_steps or trainer.args.max_steps,
            "status": "finished" if done and (done >= trainer.state.max_steps or stopped) else "interrupted",
            "finished": records.now(),
            "config": config,
            "command": _script(),
        }
        records.write_manifest(folder, manifest_of(trainer).model_copy(update=facts))
        write_report(folder)
    return folder / "report.html"


def manifest_of(trainer: "GRAOTrainer") -> Manifest:
    """Return the manifest of a trainer's run, as far as the trainer knows it."""
    train, held_out = trainer.train_items, trainer.eval_items
    long = train.dropped + (held_out.dropped if held_out else 0)
    model = trainer.accelerator.unwrap_model(trainer.model)
    return Manifest(
        seed=trainer.config.seed,
        steps=trainer.args.max_steps,
        stages=[stage.method.name for stage in trainer.conductor.plan] if len(trainer.conductor.plan) > 1 else [],
        data=DataFacts(
            prompts=len(train.items),
            held_out=len(held_out.items) if held_out else 0,
            left_out={"prompt too long": long} if long else {},
        ),
        weights=WeightCounts(all=parameter_count(model), trained=parameter_count(model, trainable=True)),
        stops=list(trainer.stop_ids),
        hardware=_hardware(trainer.accelerator),
        versions=records.installed_versions(),
        git=records.git_revision(),
    )


def _script() -> str:
    """Return the command that ran the script, without its arguments, which may hold API keys; empty in a notebook."""
    script = Path(sys.argv[0])
    is_script = script.suffix == ".py" and "site-packages" not in script.parts
    return shlex.join(["python", script.name]) if is_script else ""


def _hardware(accelerator: Accelerator) -> str:
    """Return the device name, with the number of devices."""
    cuda = accelerator.device.type == "cuda"
    name = torch.cuda.get_device_name(accelerator.device) if cuda else accelerator.device.type.upper()
    return name if accelerator.num_processes == 1 else f"{accelerator.num_processes} x {name}"
