"""What a run will take, before it begins: counted from its recipe and its data, and timed on a few of its groups.

What depends on what will be sampled is given as the most that it can be; everything else is exact. Of several
processes it is what all of them do together.
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
from grao.rewards.mix import Mix, MixedRewards, WeightedReward, check_heard, joined, make_reward
from grao.rollouts.base import draw_key
from grao.studies.content import content_batch
from grao.studies.prepare import Prepared, Screen, prepare
from grao.training.experience import Experience, Update, shuffled
from grao.training.trainer import GRAOTrainer
from grao.types import Encoded, Example, Group

_SAMPLED = 200
"""Prompts that an estimate is made from."""


@dataclass(frozen=True)
class Workload:
    """What a run does. Tokens are those of all steps: a prompt that comes twice counts twice."""

    steps: int
    groups: int
    """Prompts of all steps."""
    samples: int
    """Completions of the training, at most; 0 where the method samples nothing."""
    prompt_tokens: int
    reference_tokens: int
    rejected_tokens: int
    longest: int
    """Most tokens of a completion in training."""
    longest_answer: int
    """Most tokens of an answer before and after it."""
    held_out: int
    evaluations: int
    """On the held-out prompts while training goes on, beside the two before and after it."""
    looked: int = 0
    """Answers by which stages are ended."""

    @classmethod
    def of(cls, recipe: Recipe, items: Sequence[Encoded], most: Sequence[int], held_out: int) -> "Workload":
        """Of a run over these prompts, `most` steps in each of its stages, that evaluates on `held_out` others."""
        rollout, size, plan = recipe.rollout, recipe.training.prompts_per_step, recipe.plan
        stages = list(zip(plan, most, strict=True))
        further = max(len(items) - size, 0)  # a step has no prompt twice
        groups = [size + min(stage.method.needs.resample * size, further) for stage, _ in stages]
        drawn_at_most = sum(
            count * steps for count, (stage, steps) in zip(groups, stages, strict=True) if stage.method.needs.samples
        )
        peaks = [(stage.until.peak, steps) for stage, steps in stages if stage.until and stage.until.peak]

        def drawn(tokens: Sequence[int]) -> int:
            total = 0
            for epochs, rest in (divmod(steps * size, len(items)) for steps in most):
                last = shuffled(len(items), draw_key(recipe.seed, "order", epochs))[:rest]
                total += epochs * sum(tokens) + sum(tokens[index] for index in last)
            return total

        return cls(
            steps=sum(most),
            groups=sum(most) * size,
            samples=drawn_at_most * rollout.group_size,
            looked=sum((2 + steps // peak.every) * peak.prompts * peak.samples for peak, steps in peaks),
            prompt_tokens=drawn([len(item.prompt_ids) for item in items]),
            reference_tokens=drawn([len(item.reference_ids) for item in items]),
            rejected_tokens=drawn([len(item.rejected_ids) for item in items]),
            longest=rollout.max_new_tokens,
            longest_answer=recipe.evaluation.max_new_tokens or rollout.max_new_tokens,
            held_out=held_out,
            evaluations=_evaluations(recipe.training.trainer, sum(most)) + len(plan) - 1 if held_out else 0,
        )

    @property
    def answers(self) -> int:
        """To the held-out prompts."""
        return (2 + self.evaluations) * self.held_out

    @property
    def judged(self) -> int:
        """Of the evaluations: each answer against its reference, and the last against the first."""
        return self.answers + self.held_out

    @property
    def most_sampled(self) -> tuple[int, int]:
        """Tokens of the completions in training and of the answers in evaluations, at most."""
        answers = 2 * self.held_out * self.longest_answer + self.evaluations * self.held_out * self.longest
        return (self.samples + self.looked) * self.longest, answers

    def lines(self, recipe: Recipe) -> Iterator[str]:
        """Steps, prompts, answers and tokens."""
        needs, group = joint_needs(recipe.plan), recipe.rollout.group_size
        bound = "at most " * any(stage.method.needs.resample for stage in recipe.plan)
        completions = f", {group} completions each: {bound}{self.samples:,} completions" if needs.samples else ""
        at_most = "at most " * (len(recipe.plan) > 1)
        yield f"{at_most}{self.steps:,} steps of {recipe.training.prompts_per_step:,} prompts{completions}"
        if self.looked:
            yield f"looks at prompts kept away from training: at most {self.looked:,} answers"
        if self.held_out:
            more = f" and {self.evaluations:,} times while training" if self.evaluations else ""
            yield f"evaluation before and after{more}: {self.answers:,} answers, {self.judged:,} comparisons"
        rejected = f", {self.rejected_tokens:,} of rejected answers" if self.rejected_tokens else ""
        given = f"{self.prompt_tokens:,} of prompts, {self.reference_tokens:,} of references{rejected}"
        yield f"tokens over all steps: {given}"
        most, answers = self.most_sampled
        taught = self.reference_tokens * needs.references + self.rejected_tokens
        if most:
            likely = min(group * self.reference_tokens, most)
            yield f"sampled: at most {most + answers:,} tokens, {most:,} of them in training"
            yield f"in training about {likely:,} if completions are as long as references"
        times = f", {needs.updates} times each" if needs.updates > 1 else ""
        yield f"trained on: {'at most ' if most else ''}{taught + most:,} tokens{times}"


def _evaluations(trainer: Mapping[str, Any], steps: int) -> int:
    """How often transformers evaluates within a training of `steps` steps, which are one epoch to it."""
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
    """`forecasts` of a run that is prepared."""
    recipe, trainer, watch = ready.recipe, ready.trainer, ready.trainer.watch
    own = [*trainer.rewards.rewards, *([watch.reward.rewards[0]] if watch else [])]
    items, processes = trainer.train_items.items, trainer.accelerator.num_processes
    return forecasts(recipe, own, items, workload(ready), processes)


def workload(ready: Prepared) -> Workload:
    """Of a run that is prepared."""
    most = ready.trainer.conductor.most
    return Workload.of(ready.recipe, ready.trainer.train_items.items, most, ready.manifest.data.held_out)


def forecasts(
    recipe: Recipe, rewards: Sequence[Reward | None], items: Sequence[Encoded], work: Workload, processes: int = 1
) -> list[JudgeForecast]:
    """What a run will ask of each judge on a server and pay, at most: what a ledger knows is not asked again.

    Args:
        recipe: of the run.
        rewards: in its order, with that of its watch behind them; None for one that is no judge.
        items: its prompts.
        work: what it does.
        processes: that share it. Each asks one question to see that the judge is there.
    """
    watch, expected = recipe.watch, []
    examples = [item.example for item in items]
    for reward, config in zip(rewards, recipe.rewards, strict=False):
        certain = processes + audit_questions(reward, recipe, examples)
        comparisons = work.samples + processes * (work.judged + work.looked)  # each process judges all of these
        expected.append(judge_forecast(reward, config, items, comparisons, certain))
    if watch:
        looks = (work.steps - 1) // watch.every + 1
        groups = min(watch.prompts * processes, recipe.training.prompts_per_step)
        comparisons = looks * groups * recipe.rollout.group_size
        expected.append(judge_forecast(rewards[-1], watch.reward, items, comparisons, processes, " (watch)"))
    return [forecast for forecast in expected if forecast]


def audit_questions(reward: Reward | None, recipe: Recipe, examples: Sequence[Example]) -> int:
    """That the short audit asks a judge about these training examples."""
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
    """What one judge will be asked at most, None of what is no judge on a server or a replay.

    Answers are taken to be as long as the references.

    Args:
        reward: of any kind, or None.
        config: its section.
        train: prompts and references to judge the length of the questions by, at least one.
        comparisons: pairs to be judged.
        certain: questions beside these, which are asked whatever is sampled.
        remark: behind the judge's name.
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
    """Some groups of the first steps, as the run will have them."""

    groups: list[Group]
    mixed: MixedRewards
    timing: Timing


def try_groups(ready: Prepared, prompts: int, screen: Screen) -> Trial:
    """Samples groups with the keys of the run's first steps, has them judged, and times a gradient. No weight moves.

    Args:
        ready: the run.
        prompts: how many, as far as there are that many.
        screen: where it is shown, as a stage.

    Raises:
        InputError, RewardUnavailableError: as `Reward.relative`.
    """
    trainer, source, needs = ready.trainer, ready.trainer.source, ready.trainer.method.needs
    order = ((step, epoch, prompt) for step in count() for epoch, prompt in source.draws(step))
    draws = list(islice(order, min(prompts, len(source.items))))
    size = max(1, trainer.rows // source.sampling.samples)
    groups: list[Group] = []
    heard: list[MixedRewards] = []
    rollout = reward = 0.0
    with screen.stage(f"sampling and judging answers to {len(draws):,} prompts") as advance:
        for start in range(0, len(draws), size):
            chunk = draws[start : start + size]
            items, keys = [source.items[draw[-1]] for draw in chunk], [draw_key(source.seed, *draw) for draw in chunk]
            begin = time.perf_counter()
            groups += sample_groups(items, keys, trainer.sampler(), source.sampling, source.tokenizer)
            sampled = time.perf_counter()
            heard.append(reward_groups(groups[start:], trainer.rewards))
            rollout, reward = rollout + sampled - begin, reward + time.perf_counter() - sampled
            advance(len(groups), len(draws))
    check_heard(heard)
    mixed = joined(heard)
    learned, told = (groups, mixed) if needs.samples else _without_samples(groups)
    weighted = source.method.weigh(source.step_groups(0, learned, told.total))
    update = source.assemble(Experience(learned, told, weighted))
    seconds = _time_update(trainer, update) if update.positions else None
    known, asked = (
        sum(float(tally.get(name, 0)) for tally in mixed.tallies.values()) for name in ("cached", "requests")
    )
    timing = Timing(len(groups), rollout, reward, seconds, known=known / (known + asked) if known + asked else 0.0)
    return Trial(groups, mixed, timing)


@dataclass(frozen=True)
class _Unasked:
    """Stands in for a judge that is not asked: in every group there is something to be learned."""

    name: str

    def relative(self, batch: RewardBatch) -> Tensor:
        """See `Reward.relative`."""
        signs = [(-1.0) ** member for member in range(len(batch.completions[0]))]
        return torch.tensor([signs] * len(batch.prompts), dtype=torch.float64)


def timed(
    recipe: Recipe, split: Split, work: Workload, judges: Sequence[JudgeReward | None], ask: bool, screen: Screen
) -> Iterator[str]:
    """How long a run takes here, in lines: scaled from one batch of its samples, their rewards and a gradient.

    Args:
        recipe: of the run.
        split: its examples.
        work: what it does.
        judges: the judges on servers among its rewards, in their order; None for any other.
        ask: whether they may be asked. Their answers are not kept.
        screen: where the batch is shown.
    """
    begin, group, size = time.perf_counter(), recipe.rollout.group_size, recipe.training.prompts_per_step
    sections = list(zip(recipe.rewards, judges, strict=False))
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # those of data and template are said already
        last = recipe.plan[-1].method
        elsewhere = replace(recipe, output=Path(folder, "run"), watch=None, method=last, stages=[])
        rewards = [
            WeightedReward(_reward_apart(each, judge, ask, elsewhere), each.weight, each.normalise, each.constraint)
            for each, judge in sections
        ]
        ready = prepare(elsewhere, split, Mix(rewards))
        loading = time.perf_counter() - begin
        trial = try_groups(ready, min(size, max(1, ready.trainer.rows // group)), screen)
    steps = work.samples // (size * group) or work.steps  # of stages that sample nothing next to nothing is known
    training, whole = (
        3600 * forecast(trial.timing, steps, size, group, work.samples + answers, work.samples + judged, []).hours
        for answers, judged in ((0, 0), (work.answers, work.judged + _short_audit(ready)))
    )
    parts = f"{number(training / steps)} s a step, {duration(whole - training)} of evaluations and the short audit"
    about = "at most" if last.needs.resample else "about"
    yield f"time: {about} {duration(loading + whole)} here: {parts}, {duration(loading)} of loading"
    if steps < work.steps:
        yield f"not in this time: {work.steps - steps:,} steps that sample nothing"
    if work.samples:
        mean = sum(len(sample.ids) for each in trial.groups for sample in each.samples) / len(trial.groups) / group
        expected = f"{about} {mean * work.samples:,.0f} are sampled in training"
        yield f"completions have {mean:,.0f} tokens as the model is now: {expected}"
    for name, tally in trial.mixed.tallies.items():
        paid = f", which cost {number(float(tally['cost']))}" if tally["cost"] else ""
        yield f"judge {name} was asked {tally['requests']:,.0f} questions{paid}, to time it; the run asks them again"
    for section, judge in sections:
        if judge and section.judge and not section.judge.replay and not ask:
            yield f"not in this time: judge {judge.name}, which --ask-judges asks a few questions"


def _time_update(trainer: GRAOTrainer, update: Update) -> float:
    """Seconds for the gradient of an update, which is thrown away: no weight moves, nothing is logged."""
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
    """Comparisons of the audit before a training."""
    examples = [item.example for item in ready.trainer.train_items.items]
    return 0 if ready.recipe.audit.before_training == "skip" else len(content_batch(examples, None).prompts)


def _reward_apart(section: RewardConfig, judge: JudgeReward | None, ask: bool, recipe: Recipe) -> Reward:
    """A reward, of a judge on a server with a ledger of its own; what stands in for it if it is not to be asked."""
    if not judge or not section.judge:
        return make_reward(section, recipe)
    if section.judge.replay or not ask:
        return _Unasked(judge.name)
    return make_reward(replace(section, judge=replace(section.judge, ledger=None)), recipe)


def _without_samples(groups: Sequence[Group]) -> tuple[list[Group], MixedRewards]:
    """The same prompts as a method has them that samples nothing."""
    return [Group.of(group.item, ()) for group in groups], MixedRewards(torch.zeros(len(groups), 0).double(), {})
