"""Work and time of a run before it begins: counted from its recipe and its data, and timed on a few of its groups.

What depends on the samples is an upper bound; everything else is exact. All processes of a run are counted together.
"""

import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from grao.config.recipe import Recipe
from grao.config.rewards import RewardConfig
from grao.config.stages import joint_needs
from grao.data.load import Split
from grao.engine.interface import checkpoint_activations
from grao.evaluation.audit_figures import Timing, forecast
from grao.groups import reward_groups, sample_groups
from grao.records.audit import JudgeForecast
from grao.reports.tables import duration, number
from grao.rewards.base import Reward, RewardBatch
from grao.rewards.judge.base import Pair
from grao.rewards.judge.reward import JudgeReward
from grao.rewards.judge.server import ServerJudge
from grao.rewards.mix import Mix, MixedRewards, WeightedReward, check_any_scored, concatenated, make_reward
from grao.rollouts.base import draw_key
from grao.studies.content import content_batch
from grao.studies.prepare import Prepared, Screen, prepare
from grao.training.experience import Experience, Update, shuffled
from grao.training.trainer import GRAOTrainer
from grao.types import Encoded, Example, Group

_SAMPLED = 200
"""Maximum prompts that an estimate is based on."""


@dataclass(frozen=True)
class Workload:
    """The work of a run. Tokens are summed over all steps: a prompt that occurs twice counts twice."""

    steps: int
    groups: int
    """Prompts of all steps."""
    samples: int
    """Completions in training, at most; 0 if the method samples nothing."""
    prompt_tokens: int
    reference_tokens: int
    rejected_tokens: int
    longest: int
    """Maximum tokens of a completion in training."""
    longest_answer: int
    """Maximum tokens of an answer before and after training."""
    held_out: int
    evaluations: int
    """On the held-out prompts during training, not counting those before and after it."""
    peak_answers: int = 0
    """Answers that decide when stages end (`until.peak`)."""

    @classmethod
    def of(cls, recipe: Recipe, items: Sequence[Encoded], max_steps: Sequence[int], held_out: int) -> "Workload":
        """Return the work of a run: training on `items`, `max_steps` per stage, and evaluation on `held_out` others."""
        rollout, size, plan = recipe.rollout, recipe.training.prompts_per_step, recipe.plan
        stages = list(zip(plan, max_steps, strict=True))
        others = max(len(items) - size, 0)  # a step has no prompt twice
        groups = [size + min(stage.method.needs.resample * size, others) for stage, _ in stages]
        max_groups = sum(
            count * steps for count, (stage, steps) in zip(groups, stages, strict=True) if stage.method.needs.samples
        )
        peaks = [(stage.until.peak, steps) for stage, steps in stages if stage.until and stage.until.peak]

        def total_tokens(tokens: Sequence[int]) -> int:
            total = 0
            for epochs, rest in (divmod(steps * size, len(items)) for steps in max_steps):
                last = shuffled(len(items), draw_key(recipe.seed, "order", epochs))[:rest]
                total += epochs * sum(tokens) + sum(tokens[index] for index in last)
            return total

        return cls(
            steps=sum(max_steps),
            groups=sum(max_steps) * size,
            samples=max_groups * rollout.group_size,
            peak_answers=sum((2 + steps // peak.every) * peak.prompts * peak.samples for peak, steps in peaks),
            prompt_tokens=total_tokens([len(item.prompt_ids) for item in items]),
            reference_tokens=total_tokens([len(item.reference_ids) for item in items]),
            rejected_tokens=total_tokens([len(item.rejected_ids) for item in items]),
            longest=rollout.max_new_tokens,
            longest_answer=recipe.evaluation.max_new_tokens or rollout.max_new_tokens,
            held_out=held_out,
            evaluations=_evaluations(recipe.training.trainer, sum(max_steps)) + len(plan) - 1 if held_out else 0,
        )

    @property
    def answers(self) -> int:
        """Answers to the held-out prompts."""
        return (2 + self.evaluations) * self.held_out

    @property
    def judged(self) -> int:
        """Comparisons in evaluations: each answer with its reference, and the last with the first."""
        return self.answers + self.held_out

    @property
    def max_sampled(self) -> tuple[int, int]:
        """Maximum tokens of the completions in training, and of the answers in evaluations."""
        answers = 2 * self.held_out * self.longest_answer + self.evaluations * self.held_out * self.longest
        return (self.samples + self.peak_answers) * self.longest, answers

    def lines(self, recipe: Recipe) -> Iterator[str]:
        """Yield the work in words: steps, prompts, answers and tokens."""
        needs, group = joint_needs(recipe.plan), recipe.rollout.group_size
        bound = "at most " * any(stage.method.needs.resample for stage in recipe.plan)
        completions = f", {group} completions each: {bound}{self.samples:,} completions" if needs.samples else ""
        at_most = "at most " * (len(recipe.plan) > 1)
        yield f"{at_most}{self.steps:,} steps of {recipe.training.prompts_per_step:,} prompts{completions}"
        if self.peak_answers:
            yield f"checks on prompts that are not trained on: at most {self.peak_answers:,} answers"
        if self.held_out:
            during = f" and {self.evaluations:,} times while training" if self.evaluations else ""
            yield f"evaluation before and after{during}: {self.answers:,} answers, {self.judged:,} comparisons"
        rejected = f", {self.rejected_tokens:,} of rejected answers" if self.rejected_tokens else ""
        data = f"{self.prompt_tokens:,} of prompts, {self.reference_tokens:,} of references{rejected}"
        yield f"tokens over all steps: {data}"
        sampled, answers = self.max_sampled
        fixed = self.reference_tokens * needs.references + self.rejected_tokens
        if sampled:
            likely = min(group * self.reference_tokens, sampled)
            yield f"sampled: at most {sampled + answers:,} tokens, {sampled:,} of them in training"
            yield f"in training about {likely:,} if completions are as long as references"
        times = f", {needs.updates} times each" if needs.updates > 1 else ""
        yield f"trained on: {'at most ' if sampled else ''}{fixed + sampled:,} tokens{times}"


def _evaluations(trainer: Mapping[str, Any], steps: int) -> int:
    """Return the number of evaluations by transformers in a training of `steps` steps, which it takes as one epoch."""
    strategy, delay = str(trainer.get("eval_strategy", "no")), trainer.get("eval_delay") or 0
    at_start = int(bool(trainer.get("eval_on_start")))
    if strategy == "epoch":
        return at_start + (delay <= 1)
    if strategy != "steps":
        return at_start
    every = trainer.get("eval_steps") or trainer.get("logging_steps", 1)
    every = math.ceil(steps * every) if every < 1 else int(every)
    return at_start + sum((step % every == 0 or step == steps) and step >= delay for step in range(1, steps + 1))


def judge_forecasts(ready: Prepared) -> list[JudgeForecast]:
    """Return the `forecasts` of a prepared run."""
    recipe, trainer, watch = ready.recipe, ready.trainer, ready.trainer.watch
    rewards = [*trainer.rewards.rewards, *([watch.reward.rewards[0]] if watch else [])]
    items, processes = trainer.train_items.items, trainer.accelerator.num_processes
    return forecasts(recipe, rewards, items, workload(ready), processes)


def workload(ready: Prepared) -> Workload:
    """Return the work of a prepared run."""
    max_steps = ready.trainer.conductor.most
    return Workload.of(ready.recipe, ready.trainer.train_items.items, max_steps, ready.manifest.data.held_out)


def forecasts(
    recipe: Recipe, rewards: Sequence[Reward | None], items: Sequence[Encoded], work: Workload, processes: int = 1
) -> list[JudgeForecast]:
    """Return the maximum questions of a run to each judge on a server, and their cost; known answers are not deducted.

    Args:
        recipe: of the run.
        rewards: of the recipe in order, then that of its watch; None for one that is not a judge.
        items: training prompts.
        work: of the run.
        processes: number of processes. Each asks one question to check that the judge is there.
    """
    watch, expected = recipe.watch, []
    examples = [item.example for item in items]
    for reward, config in zip(rewards, recipe.rewards, strict=False):
        certain = processes + audit_questions(reward, recipe, examples)
        comparisons = work.samples + processes * (work.judged + work.peak_answers)  # each process judges all of these
        expected.append(judge_forecast(reward, config, items, comparisons, certain))
    if watch:
        times = (work.steps - 1) // watch.every + 1
        groups = min(watch.prompts * processes, recipe.training.prompts_per_step)
        comparisons = times * groups * recipe.rollout.group_size
        expected.append(judge_forecast(rewards[-1], watch.reward, items, comparisons, processes, " (watch)"))
    return [forecast for forecast in expected if forecast]


def audit_questions(reward: Reward | None, recipe: Recipe, examples: Sequence[Example]) -> int:
    """Return the number of questions of the short audit to a judge about these training examples."""
    if not isinstance(reward, JudgeReward) or recipe.audit.before_training == "skip":
        return 0
    return reward.questions(content_batch(examples, None))


def judge_forecast(
    reward: Reward | None,
    config: RewardConfig,
    train: Sequence[Encoded],
    comparisons: int,
    certain: int = 0,
    remark: str = "",
) -> JudgeForecast | None:
    """Return the maximum questions to one judge; None for a replay, or a reward that is not a judge on a server.

    Assumes answers as long as the references.

    Args:
        reward: of any kind, or None.
        config: its section.
        train: at least one prompt and reference, to estimate the length of questions.
        comparisons: number of pairs to judge.
        certain: number of further questions, which do not depend on samples.
        remark: suffix of the judge's name.
    """
    if not isinstance(reward, JudgeReward) or not isinstance(judge := reward.judge, ServerJudge):
        return None
    if config.judge is None or config.judge.replay:
        return None
    pairs = [Pair(item.example.prompt, item.reference_text, item.reference_text) for item in train[:_SAMPLED]]
    expected = judge.estimate(pairs, comparisons, certain)
    tokens = expected.input_tokens + expected.output_tokens
    cap, model = config.judge.max_cost, judge.endpoint.model
    return JudgeForecast(f"{reward.name}{remark}", expected.questions, tokens, expected.cost, cap, model, certain)


@dataclass(frozen=True)
class Trial:
    """Some groups of the first steps, as in the run."""

    groups: list[Group]
    mixed: MixedRewards
    timing: Timing


def try_groups(ready: Prepared, prompts: int, screen: Screen) -> Trial:
    """Sample and judge groups with the keys of the run's first steps, and time a gradient. No weight changes.

    Args:
        ready: the run.
        prompts: maximum number of prompts.
        screen: shows this as a stage.

    Raises:
        InputError, RewardUnavailableError: as `Reward.relative`.
    """
    trainer, source, needs = ready.trainer, ready.trainer.source, ready.trainer.method.needs
    order = ((step, epoch, prompt) for step in count() for epoch, prompt in source.draws(step))
    draws = list(islice(order, min(prompts, len(source.items))))
    size = max(1, trainer.rows // source.sampling.samples)
    groups: list[Group] = []
    judged: list[MixedRewards] = []
    rollout = reward = 0.0
    with screen.stage(f"sampling and judging answers to {len(draws):,} prompts") as advance:
        for start in range(0, len(draws), size):
            chunk = draws[start : start + size]
            items, keys = [source.items[draw[-1]] for draw in chunk], [draw_key(source.seed, *draw) for draw in chunk]
            begin = time.perf_counter()
            groups += sample_groups(items, keys, trainer.sampler(), source.sampling, source.tokenizer)
            sampled = time.perf_counter()
            judged.append(reward_groups(groups[start:], trainer.rewards))
            rollout, reward = rollout + sampled - begin, reward + time.perf_counter() - sampled
            advance(len(groups), len(draws))
    check_any_scored(judged)
    mixed = concatenated(judged)
    trained, rewards = (groups, mixed) if needs.samples else _without_samples(groups)
    weighted = source.method.weigh(source.step_groups(0, trained, rewards.total))
    update = source.assemble(Experience(trained, rewards, weighted))
    seconds = _time_update(trainer, update) if update.positions else None
    hits, requests = (
        sum(float(tally.get(name, 0)) for tally in mixed.tallies.values()) for name in ("cached", "requests")
    )
    timing = Timing(len(groups), rollout, reward, seconds, known=hits / (hits + requests) if hits + requests else 0.0)
    return Trial(groups, mixed, timing)


@dataclass(frozen=True)
class _JudgeStandIn:
    """Stands in for a judge that is not asked; every group gets a signal."""

    name: str

    def relative(self, batch: RewardBatch) -> Tensor:
        """See `Reward.relative`."""
        signs = [(-1.0) ** member for member in range(len(batch.completions[0]))]
        return torch.tensor([signs] * len(batch.prompts), dtype=torch.float64)


def time_estimate(
    recipe: Recipe, split: Split, work: Workload, judges: Sequence[JudgeReward | None], ask: bool, screen: Screen
) -> Iterator[str]:
    """Yield the time of a run on this machine in words, scaled from one batch of samples, their rewards and a gradient.

    Args:
        recipe: of the run.
        split: its examples.
        work: of the run.
        judges: for each reward its judge on a server; None for other rewards.
        ask: ask these judges. Their answers are not kept.
        screen: shows the batch as a stage.
    """
    begin, group, size = time.perf_counter(), recipe.rollout.group_size, recipe.training.prompts_per_step
    sections = list(zip(recipe.rewards, judges, strict=False))
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # those about data and template were shown already
        last = recipe.plan[-1].method
        scratch = replace(recipe, output=Path(folder, "run"), watch=None, method=last, stages=[])
        rewards = [
            WeightedReward(_trial_reward(part, judge, ask, scratch), part.weight, part.normalise, part.constraint)
            for part, judge in sections
        ]
        ready = prepare(scratch, split, Mix(rewards))
        loading = time.perf_counter() - begin
        trial = try_groups(ready, min(size, max(1, ready.trainer.rows // group)), screen)
    steps = work.samples // (size * group) or work.steps  # the time of stages that sample nothing is unknown
    training, total = (
        3600 * forecast(trial.timing, steps, size, group, work.samples + answers, work.samples + judged, []).hours
        for answers, judged in ((0, 0), (work.answers, work.judged + _short_audit(ready)))
    )
    parts = f"{number(training / steps)} s a step, {duration(total - training)} of evaluations and the short audit"
    about = "at most" if last.needs.resample else "about"
    yield f"time: {about} {duration(loading + total)} here: {parts}, {duration(loading)} of loading"
    if steps < work.steps:
        yield f"not in this time: {work.steps - steps:,} steps that sample nothing"
    if work.samples:
        mean = sum(len(sample.ids) for tried in trial.groups for sample in tried.samples) / len(trial.groups) / group
        expected = f"{about} {mean * work.samples:,.0f} are sampled in training"
        yield f"completions of the start model have {mean:,.0f} tokens: {expected}"
    for name, tally in trial.mixed.tallies.items():
        cost = f", which cost {number(float(tally['cost']))}" if tally["cost"] else ""
        yield f"judge {name} was asked {tally['requests']:,.0f} questions{cost}, to time it; the run asks them again"
    for section, judge in sections:
        if judge and section.judge and not section.judge.replay and not ask:
            yield f"not in this time: judge {judge.name}, which --ask-judges asks a few questions"


def _time_update(trainer: GRAOTrainer, update: Update) -> float:
    """Return the seconds for the gradient of an update. It is discarded: no weight changes, nothing is logged."""
    policy, method = cast(PreTrainedModel | PeftModel, trainer.model), trainer.method
    if trainer.args.gradient_checkpointing:
        checkpoint_activations(policy, trainer.args.gradient_checkpointing_kwargs)
    model = trainer.accelerator.prepare_model(policy)
    begin = time.perf_counter()
    before = trainer.learner.before(model, update, method)
    for _ in range(method.needs.updates):
        trainer.learner.gradient(model, update, before, method).loss.item()
    seconds = time.perf_counter() - begin
    model.zero_grad()
    return seconds


def _short_audit(ready: Prepared) -> int:
    """Return the number of comparisons in the audit before training."""
    examples = [item.example for item in ready.trainer.train_items.items]
    return 0 if ready.recipe.audit.before_training == "skip" else len(content_batch(examples, None).prompts)


def _trial_reward(section: RewardConfig, judge: JudgeReward | None, ask: bool, recipe: Recipe) -> Reward:
    """Return a reward for timing: a judge on a server with its own ledger, or a stand-in if it must not be asked."""
    if not judge or not section.judge:
        return make_reward(section, recipe)
    if section.judge.replay or not ask:
        return _JudgeStandIn(judge.name)
    return make_reward(replace(section, judge=replace(section.judge, ledger=None)), recipe)


def _without_samples(groups: Sequence[Group]) -> tuple[list[Group], MixedRewards]:
    """Return the same prompts as seen by a method that samples nothing."""
    return [Group.of(group.item, ()) for group in groups], MixedRewards(torch.zeros(len(groups), 0).double(), {})
