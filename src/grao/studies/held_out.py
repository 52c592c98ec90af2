"""The held-out prompts: a policy's answers to them, judged, and their record. For runs, studies and `grao evaluate`."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

from grao.config.recipe import Recipe
from grao.data.encoding import answer_words
from grao.data.load import Split
from grao.engine.memory import ROWS, TOKENS
from grao.errors import InputError
from grao.evaluation.answers import CHUNK, Jury, sample_answers
from grao.evaluation.doubts import doubts
from grao.evaluation.metrics import evaluation_from_items
from grao.records import run as records
from grao.records.numbers import Checks
from grao.records.run import Doubt, Evaluation, Item, RecordedAnswer
from grao.rewards.mix import Mix
from grao.rollouts.base import Sampling
from grao.studies.doubts import judge_words
from grao.studies.prepare import Advance, Prepared, prepare
from grao.types import Encoded

Answers = dict[str, list[RecordedAnswer]]
"""By the name of who gave them, in the order of the prompts."""


def answer_held_out(
    ready: Prepared, advance: Advance = lambda done, total: None, parts: int = 2
) -> list[RecordedAnswer]:
    """The current model's answers to the held-out prompts, judged: two of the `parts` of what is shown as one."""
    answers = sampled(ready, lambda done, total: advance(done // parts, total))
    judged = Jury(ready.jury)
    return judged.judge(held_out(ready), answers, lambda done, total: advance((done + total) // parts, total))


def sampled(ready: Prepared, advance: Advance = lambda done, total: None) -> list[RecordedAnswer]:
    """The current model's answers to the held-out prompts."""
    trainer, evaluation, rollout = ready.trainer, ready.recipe.evaluation, ready.recipe.rollout
    temperature = rollout.temperature if evaluation.temperature is None else evaluation.temperature
    sampling = Sampling(1, temperature, rollout.top_p, evaluation.max_new_tokens or rollout.max_new_tokens)
    items, answers = held_out(ready), list[RecordedAnswer]()
    for start in range(0, len(items), CHUNK):
        chunk = items[start : start + CHUNK]
        answers += sample_answers(chunk, trainer.sampler(), sampling, trainer.tokenizer, ready.recipe.seed)
        advance(len(answers), len(items))
    return answers


def record_answers(ready: Prepared, answers: Answers, about: Sequence[Doubt] = ()) -> Evaluation:
    """Writes `items.jsonl` and `evaluation.json` of a run from its answers before and after training."""
    items = Jury(ready.trainer.rewards).items(held_out(ready), answers)
    evaluation = evaluated(items, ready.recipe, about)
    if ready.trainer.is_world_process_zero():
        records.write_evaluation(ready.recipe.output, evaluation, items)
    return evaluation


def evaluated(
    items: Sequence[Item], recipe: Recipe, about: Sequence[Doubt] = (), checks: Checks | None = None
) -> Evaluation:
    """All numbers of some items, who judged them, and the doubts: those about the rewards first."""
    known = checks if checks and any(vars(checks).values()) else None
    evaluation = evaluation_from_items(items, recipe.evaluation.confidence, known.error if known else None)
    mine = doubts(items, evaluation)
    said = [doubt for doubt in about if doubt.kind not in [each.kind for each in mine]]
    return replace(evaluation, judges=judge_words(recipe), doubts=[*said, *mine], checks=known)


def held_out(ready: Prepared) -> Sequence[Encoded]:
    """The prompts to evaluate on.

    Raises:
        InputError: if there is none.
    """
    items = ready.trainer.eval_items
    if items is None:
        raise InputError("data.held_out: no prompts are held out, so there is nothing to evaluate on")
    return items.items


def prepared(recipe: Recipe, split: Split, rewards: Mix) -> Prepared:
    """As `prepare`, for an evaluation alone: no memory for training, and no word about its settings."""
    training, evaluation = replace(recipe.training, measure_kl=False), replace(recipe.evaluation, enabled=True)
    # What `auto` measures and leaves free is for gradients and optimiser.
    training = training if isinstance(training.token_budget, int) else replace(training, token_budget=TOKENS)
    rollout = recipe.rollout if isinstance(recipe.rollout.batch_size, int) else replace(recipe.rollout, batch_size=ROWS)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "training.learning_rate")
        changed = replace(recipe, rollout=rollout, training=training, evaluation=evaluation, watch=None)
        return prepare(changed, split, rewards)


def answers_stand(ready: Prepared) -> str:
    """What opens the policy's answers and what ends them."""
    trainer = ready.trainer
    return answer_words(trainer.tokenizer, trainer.train_items.items[0], trainer.stop_ids)
