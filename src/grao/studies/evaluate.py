"""Models on held-out prompts: within a run, or afterwards."""

import dataclasses
from pathlib import Path

from grao.config import Recipe, dump_recipe, load_recipe
from grao.errors import InputError
from grao.evaluation.answers import answer_items, make_items
from grao.evaluation.metrics import evaluation_from_items
from grao.records.evaluation import Answer, Evaluation, write_evaluation
from grao.records.manifest import now, read_manifest, update_manifest, write_manifest
from grao.rollouts import Sampling
from grao.studies.prepare import Prepared, claim, prepare
from grao.studies.screen import Screen


def evaluate_run(run: Path, output: Path, screen: Screen) -> Evaluation:
    """Judges a finished run again, the model before and after; `output` may be the run itself.

    Raises:
        InputError: if the run has no model yet, or holds out no prompts.
    """
    if read_manifest(run) is None or not (run / "model").is_dir():
        raise InputError(f"{run} holds no finished run: it needs manifest.json and model/")
    recipe = load_recipe(run / "recipe.yaml", [("output", str(run))])
    trained = dataclasses.replace(recipe.model, path=str(run / "model"), lora=None)
    before = prepare(recipe)
    after = prepare(dataclasses.replace(recipe, model=trained))
    answers = {"before": evaluate_policy(before, screen, "before"), "after": evaluate_policy(after, screen, "after")}
    if output != run:
        claim(output)
        output.mkdir(parents=True, exist_ok=True)
        write_manifest(output, {**(read_manifest(run) or {}), "evaluated": now(), "run": str(run)})
    else:
        update_manifest(run, evaluated=now())
    return _recorded(before, output, answers)


def evaluate_recipe(recipe: Recipe, screen: Screen) -> Evaluation:
    """Judges the model of a recipe against the references; nothing is trained.

    Raises:
        InputError: if the output folder is taken, or no prompts are held out.
    """
    claim(recipe.output)
    ready = prepare(recipe)
    answers = {"model": evaluate_policy(ready, screen, "model")}
    recipe.output.mkdir(parents=True, exist_ok=True)
    (recipe.output / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    write_manifest(recipe.output, {**ready.manifest, "status": "finished", "finished": now(), "steps": 0})
    return _recorded(ready, recipe.output, answers)


def evaluate_policy(ready: Prepared, screen: Screen, title: str) -> list[Answer]:
    """The current model's answers to the held-out prompts, judged."""
    trainer, evaluation, rollout = ready.trainer, ready.recipe.evaluation, ready.recipe.rollout
    if trainer.eval_items is None:
        return []
    temperature = rollout.temperature if evaluation.temperature is None else evaluation.temperature
    sampling = Sampling(1, temperature, rollout.top_p, evaluation.max_new_tokens or rollout.max_new_tokens)
    with screen.stage(title) as advance:
        return answer_items(
            trainer.eval_items.items,
            trainer.generator,
            trainer.rewards,
            sampling,
            trainer.tokenizer,
            ready.recipe.seed,
            advance,
        )


def record_answers(ready: Prepared, folder: Path, answers: dict[str, list[Answer]]) -> Evaluation | None:
    """Writes `items.jsonl` and `evaluation.json` from each model's answers; None where nothing is held out."""
    trainer = ready.trainer
    if trainer.eval_items is None:
        return None
    items = make_items(trainer.eval_items.items, answers, trainer.rewards)
    evaluation = evaluation_from_items(items, ready.recipe.evaluation.confidence)
    if trainer.is_world_process_zero():
        write_evaluation(folder, evaluation, items)
    return evaluation


def _recorded(ready: Prepared, folder: Path, answers: dict[str, list[Answer]]) -> Evaluation:
    evaluation = record_answers(ready, folder, answers)
    if evaluation is None:
        raise InputError("data.held_out: no prompts are held out, so there is nothing to evaluate on")
    return evaluation
