"""Does the runs (cells) of a study one by one, and records each.

A run is evaluated during and after training; only its record and its answers are kept. Unlike `grao train` it has no
checkpoints and no report, and the start model is evaluated once for all arms. A run with a valid record is not
repeated, and a run that fails is recorded with its error.
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
from grao.records.run import PromptItem, RecordedAnswer, git_revision, installed_versions, now, read_metrics
from grao.records.study import CellRecord, Cost, Key, Letters, Outcomes, Point, write_cell
from grao.records.work import WorkRates
from grao.reports.tables import duration, percent
from grao.rewards.base import RewardBatch
from grao.rewards.mix import Mix, MixedRewards, WeightedReward, make_rewards
from grao.sandbox.judge import score
from grao.studies.cells import Cell, is_valid
from grao.studies.held_out import answer_held_out, held_out
from grao.studies.prepare import Advance, Prepared, StudyScreen, prepare, probe
from grao.studies.work import work
from grao.types import Example

_FACTS = ("kind", "answer", "candidates", "detail")
"""Columns that the gold judge needs."""
_RIGHT = 0.5
"""Minimum gold score of a right answer."""
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}


@dataclass
class Runner:
    """Does the runs of a study and shows progress."""

    output: Path
    """Folder of the study."""
    screen: StudyScreen
    records: Mapping[Key, CellRecord]
    """Records of the study so far."""
    retry: bool
    """Repeat failed runs."""
    total: int
    """Runs of the whole study."""
    pending_records: int = 0
    """Recorded runs that have not come up yet; they take no time."""
    deadline: float = math.inf
    """Time (`time.monotonic`) by which every run but the first must have ended."""
    started: int = 0
    """Runs that were started rather than read from a record."""
    done: list[CellRecord] = field(default_factory=list)
    """Records of all runs so far, new and existing."""

    def run(self, cells: Sequence[Cell]) -> list[CellRecord]:
        """Do the runs that have no valid record; return the records of all of them.

        Raises:
            RewardUnavailableError: if the reward is unavailable; finished runs are kept.
            TimeUpError: if the next run would not end in time; finished runs are kept.
        """
        known = [self._known(cell) for cell in cells]
        self.done += filter(None, known)
        gc.freeze()  # what is loaded now stays, which makes the collection after each run fast
        try:
            return [record or self._run_and_record(cell) for cell, record in zip(cells, known, strict=True)]
        finally:
            gc.unfreeze()

    def _known(self, cell: Cell) -> CellRecord | None:
        record = self.records.get(cell.key)
        valid = record and is_valid(record, cell.settings) and not (record.error and self.retry)
        return record if valid else None

    def _run_and_record(self, cell: Cell) -> CellRecord:
        if self.started and time.monotonic() + self._expected(cell) > self.deadline:
            raise TimeUpError(self._remaining)
        self.started += 1
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
        gc.collect()  # a trainer refers to itself; its weights must be freed before the next run
        self.done.append(record)
        left = self._left()
        self.screen.say(f"{title}: {_summary(record)}{f'; about {duration(left)} left' if left else ''}")
        return record

    def _left(self) -> float | None:
        """Return the expected seconds to the end of the study; None if no run was timed."""
        spent = [record.cost.seconds["total"] for record in self.done if record.cost]
        return sum(spent) / len(spent) * self._remaining if spent else None

    @property
    def _remaining(self) -> int:
        """Number of runs still to do."""
        return max(self.total - len(self.done) - self.pending_records, 0)

    def _expected(self, cell: Cell) -> float:
        """Return the expected seconds of a run: the maximum so far of its arm, else of any arm."""
        spent = [(run.key.arm == cell.key.arm, run.cost.seconds["total"]) for run in self.done if run.cost]
        return max(spent, default=(False, 0.0))[1]


def run_cell(cell: Cell, cache: Path, progress: Advance = lambda done, total: None) -> CellRecord:
    """Train and evaluate one run.

    Args:
        cell: the run.
        cache: folder for the answers before training, shared by runs of the same seed.
        progress: called with (steps done, steps in total).

    Raises:
        InputError, RewardUnavailableError: as `prepare` and the trainer.
    """
    started, begin = now(), time.perf_counter()
    study, noise, seed, scratch = cell.study, cell.arm.noise, cell.recipe.seed, cell.recipe.output
    final = cell.key.role == "final"
    shutil.rmtree(scratch, ignore_errors=True)
    ready = prepare(cell.recipe, replace(cell.split, train=swap_answers(cell.split.train, noise.references, seed)))
    trainer = ready.trainer
    if study.judges:
        ready = replace(ready, judges=make_rewards(replace(cell.recipe, rewards=study.judges)))
        probe(ready.jury, cell.split.test, trainer.tokenizer)
    trainer.source.rewards = rewards = StudyMix(trainer.rewards.objectives, noise.rewards, seed)
    observer = _Observer(ready, rewards, _Budget.of(cell), study.evaluate_every if final else None, progress)
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
        prompts = [PromptItem(item.example.id, item.prompt_text, item.reference_text) for item in held_out(ready)]
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
    provenance = installed_versions(), git_revision()
    return CellRecord(cell.key, cell.settings, started, now(), *provenance, outcomes, cost, observer.curve)


class StudyMix(Mix):
    """Counts reward calls, and flips the sign of a share of the rewards.

    Which rewards are wrong depends only on (seed, prompt, text), so a wrong one is always wrong, as with a learned
    reward.

    Args:
        objectives: of the mix.
        wrong: share of completions whose R(o, y) changes its sign.
        seed: selects these completions.
    """

    def __init__(self, objectives: Sequence[WeightedReward], wrong: float = 0.0, seed: int = 0) -> None:
        super().__init__(objectives)
        self.calls, self.wrong, self.seed = 0, wrong, seed

    def __call__(self, batch: RewardBatch) -> MixedRewards:
        """Return R(o, y) of every completion; that of wrong rewards has the opposite sign."""
        self.calls += sum(map(len, batch.completions))
        rewards = super().__call__(batch)
        if not self.wrong:
            return rewards
        pairs = zip(batch.prompts, batch.completions, strict=True)
        signs = [
            [1 - 2 * hash_in_share(self.wrong, self.seed, prompt, text) for text in group] for prompt, group in pairs
        ]
        return replace(rewards, total=rewards.total * torch.tensor(signs, dtype=rewards.total.dtype))


def swap_answers(examples: Sequence[Example], share: float, seed: int) -> list[Example]:
    """Swap reference and rejected answer in a share of the examples; those without rejected answer are unchanged."""
    return [
        replace(example, reference=example.rejected, rejected=example.reference)
        if example.rejected and hash_in_share(share, seed, example.id)
        else example
        for example in examples
    ]


def hash_in_share(share: float, *parts: object) -> bool:
    """Whether a hash of the parts falls into this share; deterministic."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64


@dataclass(frozen=True)
class _Budget:
    """The budget of a run, in the unit that the study uses."""

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
    """Times the training, records the points of the curve, and ends a run whose budget is spent."""

    def __init__(
        self, ready: Prepared, rewards: StudyMix, budget: _Budget, every: int | None, progress: Advance
    ) -> None:
        self.ready, self.rewards, self.budget, self.every, self.progress = ready, rewards, budget, every, progress
        self.curve: list[Point] = []
        self.seconds = self.evaluation_seconds = self._begin = 0.0
        self.step, self.next_point = 0, 1

    @property
    def work(self) -> float:
        """Work so far; 0 if it is not counted."""
        return work(self.budget.rates, self.ready.trainer.conductor.reached.spent) if self.budget.rates else 0.0

    @property
    def spent(self) -> float:
        """What is spent of the budget, in its unit."""
        return {"steps": float(self.step), "seconds": self.seconds, "work": self.work}[self.budget.unit]

    def share(self) -> float:
        """Return the share of the budget that is spent."""
        return self.spent / self.budget.limit

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Start timing a step."""
        self._begin = time.perf_counter()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop timing; evaluate if a point is due, except for the last point, which the caller adds."""
        self.seconds += time.perf_counter() - self._begin
        self.step = state.global_step
        spent = self.spent
        progress = float(self.step) if self.budget.unit == "seconds" else spent
        if spent >= self.budget.limit:
            control.should_training_stop = True
        elif self.every and progress >= self.next_point * self.every and self.step < state.max_steps:
            self.next_point = int(progress // self.every) + 1
            self.evaluate()
        self.progress(min(round(spent), round(self.budget.limit)), round(self.budget.limit))

    def evaluate(self) -> list[RecordedAnswer]:
        """Answer the held-out prompts, and add a point to the curve."""
        begin = time.perf_counter()
        answers = answer_held_out(self.ready)
        self.evaluation_seconds += time.perf_counter() - begin
        self.add_point(answers)
        return answers

    def cost(self, scratch: Path, total: float) -> Cost:
        """Return the cost of the run: `total` seconds, and the figures in the training log of the scratch folder."""
        steps = read_metrics(scratch)
        names = ("tokens/sampled", "tokens/trained", "seconds/rollout", "seconds/reward", "seconds/update")
        sampled, trained, *phases = (sum(step.get(name, 0.0) for step in steps) for name in names)
        keys = ("training", "rollout", "reward", "update", "evaluation", "total")
        spent = (round(seconds, 3) for seconds in (self.seconds, *phases, self.evaluation_seconds, total))
        seconds = dict(zip(keys, spent, strict=True))
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
        """Add the point of the curve at this step, from answers to the held-out prompts."""
        ras, reward = win_share([answer.reward for answer in answers]), _mean_reward(answers)
        point = Point(self.step, self.rewards.calls, round(self.seconds, 3), ras, reward, round(self.work, 3))
        self.curve.append(point)


def _answers_before(ready: Prepared, cache: Path, judges: Sequence[RewardConfig]) -> list[RecordedAnswer]:
    """Return the start model's answers, from the cache or sampled now. Arms with the same seed mostly share them."""
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
    """Return which answers the embedded world's gold judge finds right; empty without a world or its data."""
    rows = [item.example.columns for item in held_out(ready)]
    if not cell.arm.world or not all(name in row for row in rows for name in _FACTS):
        return ""
    scores = (score(answer.text, *(row[name] for name in _FACTS)) for answer, row in zip(answers, rows, strict=True))
    return "".join("w" if gold >= _RIGHT else "l" for gold in scores)


def _mean_reward(answers: Sequence[RecordedAnswer]) -> float:
    known = [answer.reward for answer in answers if answer.reward is not None]
    return sum(known) / len(known) if known else 0.0


def _failed(cell: Cell, error: Exception) -> CellRecord:
    """Return the record of a failed run; the scratch folder keeps the traceback unless the error is the user's."""
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
