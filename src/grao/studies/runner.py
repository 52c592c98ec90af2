"""Does the runs (cells) of a study, one after the other, and records each.

A run is trained, and evaluated on the way and at the end; only its record and its answers are kept. It is leaner than
`grao train`: no checkpoints, no page, and the model before training is evaluated once for all arms. A run with a record
that counts is not done again, and one that fails is recorded with its error.
"""

import errno
import gc
import hashlib
import math
import shutil
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from grao.config.rewards import RewardConfig
from grao.data.load import fingerprint
from grao.errors import BrokenNumbersError, InputError, RewardUnavailableError, TimeUpError, one_line
from grao.evaluation.answers import Jury
from grao.evaluation.metrics import letters, win_share
from grao.records.answers import drop_answers, keep_answers
from grao.records.files import Record, replace_text
from grao.records.run import Prompted, RecordedAnswer, git_revision, installed_versions, now, read_metrics
from grao.records.study import CellRecord, Cost, Key, Letters, Outcomes, Point, write_cell
from grao.records.work import WorkRates
from grao.reports.tables import duration, percent
from grao.rewards.base import RewardBatch
from grao.rewards.mix import Mix, MixedRewards, WeightedReward, make_rewards
from grao.sandbox.judge import score
from grao.studies.cells import Cell, counts
from grao.studies.held_out import answer_held_out, held_out
from grao.studies.prepare import Advance, Prepared, StudyScreen, prepare, probe
from grao.studies.work import work
from grao.types import Example

_FACTS = ("kind", "answer", "candidates", "detail")
"""What the gold judge knows of a prompt."""
_RIGHT = 0.5
"""The least gold score of a right answer."""
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}


@dataclass
class Runner:
    """Does runs and says how far it is."""

    output: Path
    """Folder of the study."""
    screen: StudyScreen
    records: Mapping[Key, CellRecord]
    """What is recorded of the study before anything is done."""
    retry: bool
    """Do runs again that failed."""
    total: int
    """Runs of the whole study."""
    ahead: int = 0
    """Runs that are recorded already but have not come up yet; they will take no time."""
    until: float = math.inf
    """Time (`time.monotonic`) by which every run but the first must have ended."""
    begun: int = 0
    """Runs that are not only read from a record."""
    done: list[CellRecord] = field(default_factory=list)
    """Of the runs so far, made now or before."""

    def run(self, cells: Sequence[Cell]) -> list[CellRecord]:
        """The records of all these runs, made now or before.

        Raises:
            RewardUnavailableError: if the reward cannot be had; the runs that are finished stay.
            TimeUpError: if the next run would not end in time; those that are finished stay.
        """
        known = [self._known(cell) for cell in cells]
        self.done += filter(None, known)
        gc.freeze()  # what is loaded by now stays, so that clearing up after each run is quick
        try:
            return [record or self._fresh(cell) for cell, record in zip(cells, known, strict=True)]
        finally:
            gc.unfreeze()

    def _known(self, cell: Cell) -> CellRecord | None:
        record = self.records.get(cell.key)
        valid = record and counts(record, cell.settings) and not (record.error and self.retry)
        return record if valid else None

    def _fresh(self, cell: Cell) -> CellRecord:
        if self.begun and time.monotonic() + self._expected(cell) > self.until:
            raise TimeUpError(self._waiting)
        self.begun += 1
        title = f"{len(self.done) + 1}/{self.total} {cell.key.words}"
        drop_answers(self.output, cell.key)
        self.screen.follow(replace(cell.recipe, rewards=[*cell.recipe.rewards, *cell.study.judges]))
        with self.screen.cell(title, self._left()) as progress:
            try:
                record = run_cell(cell, self.output / "work" / "before", progress)
            except RewardUnavailableError as error:
                raise RewardUnavailableError(f"{error}; finished runs are kept, the same command goes on") from error
            except Exception as error:
                if isinstance(error, OSError) and error.errno in _DISK:
                    raise
                record = _failed(cell, error)
        write_cell(self.output, record)
        gc.collect()  # a trainer refers to itself; its weights must be gone before the next one comes
        self.done.append(record)
        left = self._left()
        self.screen.say(f"{title}: {_summary(record)}{f'; about {duration(left)} left' if left else ''}")
        return record

    def _left(self) -> float | None:
        """Seconds to the end, if any run was ever timed."""
        spent = [record.cost.seconds["total"] for record in self.done if record.cost]
        return sum(spent) / len(spent) * self._waiting if spent else None

    @property
    def _waiting(self) -> int:
        """Runs that are still to be done."""
        return max(self.total - len(self.done) - self.ahead, 0)

    def _expected(self, cell: Cell) -> float:
        """Seconds that a run will take: the most that one of its arm took, or else one of any arm."""
        spent = [(each.key.arm == cell.key.arm, each.cost.seconds["total"]) for each in self.done if each.cost]
        return max(spent, default=(False, 0.0))[1]


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
    study, noise, seed, scratch = cell.study, cell.arm.noise, cell.recipe.seed, cell.recipe.output
    final = cell.key.role == "final"
    shutil.rmtree(scratch, ignore_errors=True)
    ready = prepare(cell.recipe, replace(cell.split, train=exchanged(cell.split.train, noise.references, seed)))
    trainer = ready.trainer
    if study.judges:
        ready = replace(ready, judges=make_rewards(replace(cell.recipe, rewards=study.judges)))
        probe(ready.jury, cell.split.test, trainer.tokenizer)
    trainer.source.rewards = counted = StudyMix(trainer.rewards.objectives, noise.rewards, seed)
    observer = _Observer(ready, counted, _Budget.of(cell), study.evaluate_every if final else None, progress)
    before = _answers_before(ready, cache, study.judges or cell.recipe.rewards) if final else []
    if before:
        observer.add_point(before)
    trainer.add_callback(observer)
    trainer.conductor.share = observer.share
    trainer.train()
    after = observer.evaluate()
    if study.keep_models and final:
        trainer.save_policy(study.output / "models" / cell.key.name)
    gains = Jury(ready.jury).compare(held_out(ready), after, before) if before else []
    if final:
        prompts = [Prompted(item.example.id, item.prompt_text, item.reference_text) for item in held_out(ready)]
        keep_answers(study.output, cell.key, prompts, after, before, gains)
    outcomes = Outcomes(
        prompts=fingerprint(cell.split.test)[:16],
        after=letters([answer.reward for answer in after]),
        mean_reward=_mean_reward(after),
        mean_tokens=sum(answer.tokens for answer in after) / len(after),
        truncated=sum(answer.truncated for answer in after) / len(after),
        before=letters([answer.reward for answer in before]),
        gain=letters(gains),
        right=_right(cell, ready, after),
    )
    cost = observer.cost(scratch, time.perf_counter() - begin)
    shutil.rmtree(scratch, ignore_errors=True)
    made_by = installed_versions(), git_revision()
    return CellRecord(cell.key, cell.settings, started, now(), *made_by, outcomes, cost, observer.curve)


class StudyMix(Mix):
    """Counts the rewards that are asked for, and turns a share of them around.

    Which ones are wrong depends on (seed, prompt, text) alone, so a wrong one is wrong each time it is met, as with a
    learned reward.

    Args:
        objectives: of the mix.
        wrong: share of answers whose R(o, y) changes its sign.
        seed: another seed, other answers.
    """

    def __init__(self, objectives: Sequence[WeightedReward], wrong: float = 0.0, seed: int = 0) -> None:
        super().__init__(objectives)
        self.calls, self.wrong, self.seed = 0, wrong, seed

    def __call__(self, batch: RewardBatch) -> MixedRewards:
        """As any mix."""
        self.calls += sum(map(len, batch.completions))
        rewards = super().__call__(batch)
        if not self.wrong:
            return rewards
        pairs = zip(batch.prompts, batch.completions, strict=True)
        signs = [[1 - 2 * chosen(self.wrong, self.seed, prompt, text) for text in group] for prompt, group in pairs]
        return replace(rewards, total=rewards.total * torch.tensor(signs, dtype=rewards.total.dtype))


def exchanged(examples: Sequence[Example], share: float, seed: int) -> list[Example]:
    """The examples, a share of them with reference and rejected answer exchanged; those without one stay."""
    return [
        replace(example, reference=example.rejected, rejected=example.reference)
        if example.rejected and chosen(share, seed, example.id)
        else example
        for example in examples
    ]


def chosen(share: float, *parts: object) -> bool:
    """True for a share of all parts, always the same ones."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64


@dataclass(frozen=True)
class _Budget:
    """What a run may spend, in the one unit that the study counts by."""

    unit: Literal["steps", "seconds", "work"]
    limit: float
    rates: WorkRates | None

    @staticmethod
    def of(cell: Cell) -> "_Budget":
        budget = cell.study.budget
        if budget.seconds is not None:
            return _Budget("seconds", budget.seconds, None)
        if budget.work is not None:
            return _Budget("work", budget.work, cell.rates)
        return _Budget("steps", float(cell.recipe.training.steps or 0), None)


class _Observer(TrainerCallback):
    """Keeps the training's clock, takes the points of the curve, and ends a run whose budget is spent."""

    def __init__(
        self, ready: Prepared, rewards: StudyMix, budget: _Budget, every: int | None, progress: Advance
    ) -> None:
        self.ready, self.rewards, self.budget, self.every, self.progress = ready, rewards, budget, every, progress
        self.curve: list[Point] = []
        self.seconds = self.evaluating = self._begin = 0.0
        self.step, self.taken = 0, 1

    @property
    def work(self) -> float:
        """Counted so far; 0 where none is."""
        return work(self.budget.rates, self.ready.trainer.conductor.reached.spent) if self.budget.rates else 0.0

    @property
    def spent(self) -> float:
        """Of the budget, in its unit."""
        return {"steps": float(self.step), "seconds": self.seconds, "work": self.work}[self.budget.unit]

    def share(self) -> float:
        """Of the budget, what is spent."""
        return self.spent / self.budget.limit

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Starts the clock."""
        self._begin = time.perf_counter()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stops it; evaluates where a point is due, but for the last one, which is the caller's."""
        self.seconds += time.perf_counter() - self._begin
        self.step = state.global_step
        spent = self.spent
        along = float(self.step) if self.budget.unit == "seconds" else spent
        if spent >= self.budget.limit:
            control.should_training_stop = True
        elif self.every and along >= self.taken * self.every and self.step < state.max_steps:
            self.taken = int(along // self.every) + 1
            self.evaluate()
        self.progress(min(round(spent), round(self.budget.limit)), round(self.budget.limit))

    def evaluate(self) -> list[RecordedAnswer]:
        """Answers to the held-out prompts, and a point of the curve."""
        begin = time.perf_counter()
        answers = answer_held_out(self.ready)
        self.evaluating += time.perf_counter() - begin
        self.add_point(answers)
        return answers

    def cost(self, scratch: Path, total: float) -> Cost:
        """What the run took: `total` seconds, and what the log of the training in the scratch folder says."""
        steps = read_metrics(scratch)
        names = ("tokens/sampled", "tokens/trained", "seconds/rollout", "seconds/reward", "seconds/update")
        sampled, trained, *phases = (sum(step.get(name, 0.0) for step in steps) for name in names)
        named = ("training", "rollout", "reward", "update", "evaluation", "total")
        spent = (round(seconds, 3) for seconds in (self.seconds, *phases, self.evaluating, total))
        seconds = dict(zip(named, spent, strict=True))
        return Cost(
            self.step,
            self.rewards.calls,
            round(sampled),
            round(trained),
            seconds,
            round(self.work, 3),
            self.ready.trainer.conductor.ends,
        )

    def add_point(self, answers: Sequence[RecordedAnswer]) -> None:
        """A point of the curve at this step, from answers to the held-out prompts."""
        ras, reward = win_share([answer.reward for answer in answers]), _mean_reward(answers)
        at = Point(self.step, self.rewards.calls, round(self.seconds, 3), ras, reward, round(self.work, 3))
        self.curve.append(at)


def _answers_before(ready: Prepared, cache: Path, judges: Sequence[RewardConfig]) -> list[RecordedAnswer]:
    """Of the model before training: from the cache, or given now. The arms of a seed mostly share them."""
    recipe, rollout = ready.recipe, ready.recipe.rollout
    examples = [item.example for item in held_out(ready)]
    sampling = (rollout.temperature, rollout.top_p, rollout.max_new_tokens)
    decisive = (recipe.model, judges, recipe.evaluation, recipe.seed, sampling, fingerprint(examples))
    cached = Record(f"{hashlib.sha256(repr(decisive).encode()).hexdigest()[:16]}.jsonl", RecordedAnswer)
    with suppress(InputError):
        if answers := cached.read_lines(cache):
            return answers
    answers = answer_held_out(ready)
    cached.write_lines(cache, answers)
    return answers


def _right(cell: Cell, ready: Prepared, answers: Sequence[RecordedAnswer]) -> Letters:
    """Which answers are right by the embedded world's gold judge; empty outside of it, and on data of one's own."""
    rows = [item.example.columns for item in held_out(ready)]
    if not cell.arm.world or not all(name in row for row in rows for name in _FACTS):
        return ""
    scores = (score(answer.text, *(row[name] for name in _FACTS)) for answer, row in zip(answers, rows, strict=True))
    return "".join("w" if reached >= _RIGHT else "l" for reached in scores)


def _mean_reward(answers: Sequence[RecordedAnswer]) -> float:
    known = [answer.reward for answer in answers if answer.reward is not None]
    return sum(known) / len(known) if known else 0.0


def _failed(cell: Cell, error: Exception) -> CellRecord:
    """The record of a run that failed; the traceback of what is no user's mistake stays in the scratch folder."""
    line = one_line(error, None)
    if not isinstance(error, InputError | BrokenNumbersError):
        line = f"{type(error).__name__}: {line}"
        cell.recipe.output.mkdir(parents=True, exist_ok=True)
        replace_text(cell.recipe.output / "traceback.txt", traceback.format_exc())
    return CellRecord(cell.key, cell.settings, now(), now(), installed_versions(), git_revision(), error=line)


def _summary(record: CellRecord) -> str:
    if record.outcomes is None or record.cost is None:
        return f"FAILED: {record.error}"
    ras = percent(record.curve[-1].ras, len(record.outcomes.after))
    return f"RAS {ras}, {duration(record.cost.seconds['total'])}"
