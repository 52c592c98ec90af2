"""Models on held-out prompts: within a run, or afterwards."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from grao.config import Recipe, dump_recipe, load_recipe
from grao.config.strict_yaml import write_inline
from grao.data import Encoded
from grao.errors import InputError
from grao.evaluation.answers import answer_items, make_items
from grao.evaluation.metrics import evaluation_from_items
from grao.records.evaluation import Answer, Evaluation, write_evaluation
from grao.records.files import replace_text
from grao.records.manifest import Manifest, now, read_manifest, write_manifest
from grao.reports.page import write_report
from grao.rollouts import Sampling
from grao.studies.prepare import Prepared, claim, prepare
from grao.studies.screen import Advance, Screen


def evaluate_run(run: Path, output: Path, screen: Screen) -> Evaluation:
    """Judges a finished run again, the model before and after; `output` may be the run itself.

    Raises:
        InputError: if the run has no model yet or holds out no prompts, or another output folder is taken.
    """
    if read_manifest(run) is None or not (run / "model").is_dir():
        raise InputError(f"{run} holds no finished run: it needs manifest.json and model/")
    elsewhere = output.resolve() != run.resolve()
    if elsewhere:
        claim(output)
    recipe = load_recipe(run / "recipe.yaml", [("output", write_inline(str(output)))])
    before = evaluate_policy(_prepare(recipe), screen, "before")
    trained = dataclasses.replace(recipe.model, path=str(run / "model"), lora=None)
    ready = _prepare(dataclasses.replace(recipe, model=trained))
    answers = {"before": before, "after": evaluate_policy(ready, screen, "after")}
    source = {"run": str(run)} if elsewhere else {}
    return _recorded(ready, answers, {**(read_manifest(run) or {}), "evaluated": now(), **source})


def evaluate_recipe(recipe: Recipe, screen: Screen) -> Evaluation:
    """Judges the model of a recipe against the references; nothing is trained.

    Raises:
        InputError: if the output folder is taken, or no prompts are held out.
    """
    claim(recipe.output)
    ready = _prepare(recipe)
    answers = {"model": evaluate_policy(ready, screen, "model")}
    evaluation = _recorded(ready, answers, {**ready.manifest, "status": "finished", "finished": now(), "steps": 0})
    if ready.trainer.is_world_process_zero():
        replace_text(recipe.output / "recipe.yaml", dump_recipe(recipe))
    return evaluation


def evaluate_policy(ready: Prepared, screen: Screen, title: str) -> list[Answer]:
    """`answer_held_out`, shown as a stage."""
    with screen.stage(title) as advance:
        return answer_held_out(ready, advance)


def answer_held_out(ready: Prepared, advance: Advance = lambda done, total: None) -> list[Answer]:
    """The current model's answers to the held-out prompts, judged."""
    trainer, evaluation, rollout = ready.trainer, ready.recipe.evaluation, ready.recipe.rollout
    temperature = rollout.temperature if evaluation.temperature is None else evaluation.temperature
    sampling = Sampling(1, temperature, rollout.top_p, evaluation.max_new_tokens or rollout.max_new_tokens)
    return answer_items(
        held_out(ready),
        trainer.generator,
        trainer.rewards,
        sampling,
        trainer.tokenizer,
        ready.recipe.seed,
        advance,
    )


def record_answers(ready: Prepared, answers: dict[str, list[Answer]]) -> Evaluation:
    """Writes `items.jsonl` and `evaluation.json` from each model's answers."""
    items = make_items(held_out(ready), answers, ready.trainer.rewards)
    evaluation = evaluation_from_items(items, ready.recipe.evaluation.confidence)
    if ready.trainer.is_world_process_zero():
        write_evaluation(ready.recipe.output, evaluation, items)
    return evaluation


def held_out(ready: Prepared) -> Sequence[Encoded]:
    """The prompts to evaluate on.

    Raises:
        InputError: if there is none.
    """
    items = ready.trainer.eval_items
    if items is None:
        raise InputError("data.held_out: no prompts are held out, so there is nothing to evaluate on")
    return items.items


def _prepare(recipe: Recipe) -> Prepared:
    """As `prepare`, for an evaluation alone: no memory for training, and prompts to answer."""
    training = dataclasses.replace(recipe.training, measure_kl=False)
    evaluation = dataclasses.replace(recipe.evaluation, enabled=True)
    ready = prepare(dataclasses.replace(recipe, training=training, evaluation=evaluation, watch=None))
    held_out(ready)
    return ready


def _recorded(ready: Prepared, answers: dict[str, list[Answer]], manifest: Manifest) -> Evaluation:
    folder, first = ready.recipe.output, ready.trainer.is_world_process_zero()
    if first:
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(folder, manifest)
    evaluation = record_answers(ready, answers)
    if first:
        write_report(folder)
    return evaluation
