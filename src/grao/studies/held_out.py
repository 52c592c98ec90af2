"""Answers to the held-out prompts: sampled, judged and recorded, for runs, studies and `grao evaluate`."""

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
"""Model name -> answers in the order of the prompts."""


def answer_held_out(
    ready: Prepared, advance: Advance = lambda done, total: None, parts: int = 2
) -> list[RecordedAnswer]:
    """Return the policy's judged answers to the held-out prompts; sampling and judging are two of `parts` phases."""
    answers = sample_held_out(ready, lambda done, total: advance(done // parts, total))
    jury = Jury(ready.jury)
    return jury.judge(held_out(ready), answers, lambda done, total: advance((done + total) // parts, total))


def sample_held_out(ready: Prepared, advance: Advance = lambda done, total: None) -> list[RecordedAnswer]:
    """Return the policy's answers to the held-out prompts, not judged."""
    trainer, evaluation, rollout = ready.trainer, ready.recipe.evaluation, ready.recipe.rollout
    temperature = rollout.temperature if evaluation.temperature is None else evaluation.temperature
    sampling = Sampling(1, temperature, rollout.top_p, evaluation.max_new_tokens or rollout.max_new_tokens)
    items, answers = held_out(ready), list[RecordedAnswer]()
    for start in range(0, len(items), CHUNK):
        chunk = items[start : start + CHUNK]
        answers += sample_answers(chunk, trainer.sampler(), sampling, trainer.tokenizer, ready.recipe.seed)
        advance(len(answers), len(items))
    return answers


def record_answers(ready: Prepared, answers: Answers, reward_doubts: Sequence[Doubt] = ()) -> Evaluation:
    """Write `items.jsonl` and `evaluation.json` of a run from its answers before and after training."""
    items = Jury(ready.trainer.rewards).items(held_out(ready), answers)
    evaluation = evaluation_of(items, ready.recipe, reward_doubts)
    if ready.trainer.is_world_process_zero():
        records.write_evaluation(ready.recipe.output, evaluation, items)
    return evaluation


def evaluation_of(
    items: Sequence[Item], recipe: Recipe, reward_doubts: Sequence[Doubt] = (), checks: Checks | None = None
) -> Evaluation:
    """Return all figures of the items, their judges, and the doubts, first those about the rewards."""
    checks = checks if checks and any(vars(checks).values()) else None
    evaluation = evaluation_from_items(items, recipe.evaluation.confidence, checks.error if checks else None)
    item_doubts = doubts(items, evaluation)
    others = [doubt for doubt in reward_doubts if doubt.kind not in [doubt.kind for doubt in item_doubts]]
    return replace(evaluation, judges=judge_words(recipe), doubts=[*others, *item_doubts], checks=checks)


def held_out(ready: Prepared) -> Sequence[Encoded]:
    """Return the held-out prompts.

    Raises:
        InputError: if there are none.
    """
    items = ready.trainer.eval_items
    if items is None:
        raise InputError("data.held_out: no prompts are held out, so there is nothing to evaluate on")
    return items.items


def prepare_evaluation(recipe: Recipe, split: Split, rewards: Mix) -> Prepared:
    """Prepare only for evaluation: like `prepare`, without memory for training or warnings about its settings."""
    training, evaluation = replace(recipe.training, measure_kl=False), replace(recipe.evaluation, enabled=True)
    # `auto` would measure and reserve memory for gradients and optimizer.
    training = training if isinstance(training.token_budget, int) else replace(training, token_budget=TOKENS)
    rollout = recipe.rollout if isinstance(recipe.rollout.batch_size, int) else replace(recipe.rollout, batch_size=ROWS)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "training.learning_rate")
        recipe = replace(recipe, rollout=rollout, training=training, evaluation=evaluation, watch=None)
        return prepare(recipe, split, rewards)


def answer_format(ready: Prepared) -> str:
    """Return the texts that open and end the policy's answers, in words."""
    trainer = ready.trainer
    return answer_words(trainer.tokenizer, trainer.train_items.items[0], trainer.stop_ids)
