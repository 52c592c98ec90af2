"""One run of a study, from a recipe to a record: train, evaluate on the way and at the end, keep nothing else.

Leaner than `grao train`: no checkpoints, no page, and the model before training is evaluated once for all arms.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from grao.config import Recipe
from grao.config.study import NoiseConfig
from grao.data import fingerprint
from grao.data.split import Split
from grao.evaluation.answers import compare_answers
from grao.evaluation.outcomes import letters, win_share
from grao.records.cell import CellRecord, Cost, Key, Outcomes, Point
from grao.records.evaluation import Answer
from grao.records.files import replace_text
from grao.records.manifest import git_revision, installed_versions, now
from grao.records.metrics import read_metrics
from grao.studies.evaluate import answer_held_out, held_out
from grao.studies.noise import StudyMix, exchanged
from grao.studies.prepare import Prepared, prepare
from grao.studies.screen import Advance

_ANSWERS = TypeAdapter(list[Answer])


@dataclass(frozen=True)
class Cell:
    """One run that is to be done."""

    key: Key
    recipe: Recipe
    """Its output is a scratch folder."""
    settings: dict[str, Any]
    """As in its record."""
    split: Split
    """What it is trained and evaluated on."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Errors in what it is trained on."""
    evaluate_every: int | None = None
    """Steps between the points of its curve."""
    seconds: float | None = None
    """Of training, after which it ends."""
    model: Path | None = None
    """Where the trained model is kept."""


def run_cell(cell: Cell, cache: Path, progress: Advance = lambda done, total: None) -> CellRecord:
    """Trains and evaluates.

    Args:
        cell: what to do.
        cache: folder for the answers before training, which runs of the same seed share.
        progress: called with steps done and all steps.

    Raises:
        InputError, RewardUnavailableError: as `prepare` and the trainer.
    """
    started, begin = now(), time.perf_counter()
    scratch = cell.recipe.output
    shutil.rmtree(scratch, ignore_errors=True)
    set_seed(cell.recipe.seed)  # what an adapter starts with must not depend on earlier runs
    learned = exchanged(cell.split.train, cell.noise.references, cell.recipe.seed)
    ready = prepare(cell.recipe, replace(cell.split, train=learned))
    trainer = ready.trainer
    trainer.source.rewards = counted = StudyMix(trainer.rewards.objectives, cell.noise.rewards, cell.recipe.seed)
    before = _answers_before(ready, cache) if cell.key.role == "final" else []
    observer = _Observer(ready, counted, before, cell, progress)
    trainer.add_callback(observer)
    trainer.train()
    after = observer.answer()
    if cell.model:
        trainer.save_model(str(cell.model))
        (cell.model / "training_args.bin").unlink(missing_ok=True)  # a pickle
    compared = compare_answers(held_out(ready), after, before, trainer.rewards) if before else []
    cost = _cost(scratch, observer, time.perf_counter() - begin)
    shutil.rmtree(scratch, ignore_errors=True)
    return CellRecord(
        key=cell.key,
        settings=cell.settings,
        started=started,
        finished=now(),
        versions=installed_versions(),
        git=git_revision(),
        outcomes=_outcomes(cell.split, before, after, compared),
        cost=cost,
        curve=observer.curve,
    )


class _Observer(TrainerCallback):
    """Keeps the training's clock, takes the points of the curve, and ends a run whose time is up."""

    def __init__(
        self, ready: Prepared, rewards: StudyMix, before: Sequence[Answer], cell: Cell, progress: Advance
    ) -> None:
        self.ready, self.rewards, self.cell, self.progress = ready, rewards, cell, progress
        self.curve: list[Point] = []
        self.seconds = self.evaluating = 0.0
        self.step = 0
        self._begin = 0.0
        if before:
            self._note(before)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the clock."""
        self._begin = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stops it; evaluates where a point is due. The last one is `answer`'s."""
        self.seconds += time.perf_counter() - self._begin
        self.step, limit, every = state.global_step, self.cell.seconds, self.cell.evaluate_every
        over = limit is not None and self.seconds >= limit
        if over:
            control.should_training_stop = True
        elif every and self.step % every == 0 and self.step < state.max_steps:
            self.answer()
        if limit is None:
            self.progress(self.step, state.max_steps)
        else:
            self.progress(min(round(self.seconds), round(limit)), round(limit))

    def answer(self) -> list[Answer]:
        """Answers to the held-out prompts, and a point of the curve."""
        begin = time.perf_counter()
        answers = answer_held_out(self.ready)
        self.evaluating += time.perf_counter() - begin
        self._note(answers)
        return answers

    def _note(self, answers: Sequence[Answer]) -> None:
        ras, reward = win_share([answer.reward for answer in answers]), _mean_reward(answers)
        self.curve.append(Point(self.step, self.rewards.calls, round(self.seconds, 3), ras, reward))


def _answers_before(ready: Prepared, cache: Path) -> list[Answer]:
    """Of the model before training: from the cache, or given now. The arms of a seed mostly share them."""
    recipe, rollout = ready.recipe, ready.recipe.rollout
    examples = [item.example for item in held_out(ready)]
    sampling = (rollout.temperature, rollout.top_p, rollout.max_new_tokens)
    decisive = (recipe.model, recipe.rewards, recipe.evaluation, recipe.seed, sampling, fingerprint(examples))
    path = cache / f"{hashlib.sha256(repr(decisive).encode()).hexdigest()[:16]}.json"
    try:
        return _ANSWERS.validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        answers = answer_held_out(ready)
    cache.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(_ANSWERS.dump_python(answers, mode="json"), ensure_ascii=False))
    return answers


def _outcomes(
    split: Split, before: Sequence[Answer], after: Sequence[Answer], compared: Sequence[float | None]
) -> Outcomes:
    return Outcomes(
        prompts=fingerprint(split.test)[:16],
        after=letters([answer.reward for answer in after]),
        mean_reward=_mean_reward(after),
        mean_tokens=sum(answer.tokens for answer in after) / len(after),
        truncated=sum(answer.truncated for answer in after) / len(after),
        before=letters([answer.reward for answer in before]),
        gain=letters(compared),
    )


def _mean_reward(answers: Sequence[Answer]) -> float:
    known = [answer.reward for answer in answers if answer.reward is not None]
    return sum(known) / len(known) if known else 0.0


def _cost(scratch: Path, observer: _Observer, total: float) -> Cost:
    """From the log of the training, which lies in the scratch folder."""
    steps = read_metrics(scratch)

    def summed(name: str) -> float:
        return sum(step.get(name, 0.0) for step in steps)

    seconds = {phase: summed(f"seconds/{phase}") for phase in ("rollout", "reward", "update")}
    seconds = {"training": observer.seconds, **seconds, "evaluation": observer.evaluating, "total": total}
    return Cost(
        steps=observer.step,
        reward_calls=observer.rewards.calls,
        tokens_sampled=round(summed("tokens/sampled")),
        tokens_trained=round(summed("tokens/trained")),
        seconds={phase: round(spent, 3) for phase, spent in seconds.items()},
    )
