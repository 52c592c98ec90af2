"""Rollout, rewards and weights of a step: step number in, weighted groups out.

A step's prompts and samples depend only on (seed, step) and the weights, so a resumed run replays nothing, and
processes exchange only how many tokens they sampled and which groups have no weight. Samples drawn one step ahead come
from weights that the step in between changes; `sampled` holds them, and so does a checkpoint.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from grao.groups import decoded_group, reward_batch, reward_groups, sample_groups
from grao.methods.base import Method, StepGroups, Weighted
from grao.rewards.mix import Mix, MixedRewards, concatenated
from grao.rollouts.base import Generator, Sampling, draw_key
from grao.types import Answer, Batch, Encoded, Group, PerAnswer, Role


@dataclass(frozen=True)
class Experience:
    """Groups of this process with rewards and weights, before the update."""

    groups: list[Group]
    """B groups; with `Needs.resample` all that were drawn: those of the step's own prompts, then the replacements."""
    rewards: MixedRewards
    weighted: Weighted
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def sampled(self) -> bool:
        """Whether the policy sampled completions; not every method needs them."""
        return self.rewards.total.shape[1] > 0

    @property
    def scored_counts(self) -> Tensor:
        """(2,), number of samples with a reward, and of all samples."""
        total = self.rewards.total
        return torch.tensor([int((~total.isnan()).sum()), total.numel()])


@dataclass(frozen=True)
class Update:
    """Input of one optimizer step, on this process."""

    batch: Batch
    """The S answers with non-zero weight: samples, references and rejected answers."""
    positions: list[tuple[int, int]]
    """S pairs (index of the group in the experience, index in its `Group.answers`)."""
    prompts: int
    """Prompts of the step over all processes; the loss is divided by it."""
    experience: Experience

    def per_answer(self, values: Tensor) -> PerAnswer:
        """Arrange (S,) values by group and role, float64; 0 for answers outside the update."""
        weights = self.experience.weighted.weights
        table = PerAnswer(*(torch.zeros_like(part, dtype=torch.float64) for part in vars(weights).values()))
        for (group, index), answer, value in zip(self.positions, self.batch.answers, values.tolist(), strict=True):
            if answer.role is Role.SAMPLE:
                table.samples[group, index] = value
            else:
                (table.reference if answer.role is Role.REFERENCE else table.rejected)[group] = value
        return table


@dataclass
class ExperienceSource:
    """Returns the update of any step.

    Args:
        items: all training prompts.
        generator: the sampling engine.
        rewards: score the samples.
        method: weights the answers.
        tokenizer: decodes samples for the rewards.
        sampling: group size G and sampling settings.
        prompts_per_step: B over all processes.
        seed: of the prompt order and of sampling.
        drop_truncated: give truncated samples weight 0. They still count in their group's mean and deviation.
        process: index of this process.
        processes: number of processes, over which the prompts of a step are spread.
        ahead: 1 to sample the next step while a judge scores this one.
        steps: optimizer steps of the stage; nothing is sampled ahead beyond them.
        total: sums a tensor over all processes.
    """

    items: Sequence[Encoded]
    generator: Generator
    rewards: Mix
    method: Method
    tokenizer: PreTrainedTokenizerBase
    sampling: Sampling
    prompts_per_step: int
    seed: int = 0
    drop_truncated: bool = False
    process: int = 0
    processes: int = 1
    ahead: int = 0
    steps: int = 0
    total: Callable[[Tensor], list[float]] = Tensor.tolist
    sampled: dict[int, list[Group]] = field(default_factory=dict)
    """With `ahead`: step -> its groups on this process, for the current step and the next."""
    last: Experience | None = None
    """Experience of the last step."""

    def update(self, step: int) -> Update:
        """Sample, score and weight the groups of optimizer step `step` (from 0, within the stage)."""
        seconds: dict[str, float] = {}
        if self.method.needs.samples:
            with _clock(seconds, "rollout"):
                stored = self.sampled.get(step) if step else None  # those of step 0 would be of an earlier training
                groups = stored or self._sample(step, self._begin)
                next_groups = self._sample_ahead(step, groups)
            with _clock(seconds, "reward"):
                rewards = reward_groups(groups, self.rewards)
            if next_groups:
                self.rewards.begin(reward_batch(next_groups))  # only now: it announces the next call
        else:
            groups = [Group.of(item, ()) for item in self._items(step)]
            rewards = MixedRewards(torch.zeros(len(groups), 0, dtype=torch.float64), {})
        groups, rewards, weighted = self._resampled(step, groups, rewards, seconds)
        self.last = Experience(groups, rewards, weighted, seconds)
        return self.assemble(self.last)

    def _resampled(
        self, step: int, groups: list[Group], rewards: MixedRewards, seconds: dict[str, float]
    ) -> tuple[list[Group], MixedRewards, Weighted]:
        """Weight the groups, and replace those without weight by groups of other prompts.

        This is repeated up to `Needs.resample` times; no prompt occurs twice in a step. The j-th empty slot, over all
        processes, gets the j-th prompt of an order that depends on (seed, step) only, and its samples depend on (seed,
        step, prompt): so they are the same on any number of processes and after a resume.
        """
        filling = list(range(len(groups)))  # index of the group in each slot of this process
        weighted = self.method.weigh(self.step_groups(step, groups, rewards.total, filling))
        if not self.method.needs.resample:
            return groups, rewards, weighted
        used = {index for _, index in self.draws(step)}
        order = shuffled(len(self.items), draw_key(self.seed, "further", step))
        replacements = (index for index in order if index not in used)
        for _ in range(self.method.needs.resample):
            rows, silent = list(weighted.weights.rows()), torch.zeros(self.prompts_per_step, dtype=torch.float64)
            silent[self.process :: self.processes] = torch.tensor([float(not any(rows[number])) for number in filling])
            empty_slots = [slot for slot, flag in enumerate(self.total(silent)) if flag]
            draws = list(zip(empty_slots, replacements, strict=False))
            if not draws:
                break
            local_draws = [(slot, index) for slot, index in draws if slot % self.processes == self.process]
            if local_draws:
                items = [self.items[index] for _, index in local_draws]
                keys = [draw_key(self.seed, step, "further", index) for _, index in local_draws]
                with _clock(seconds, "rollout"):
                    new = sample_groups(items, keys, self.generator, self.sampling, self.tokenizer, self._begin)
                with _clock(seconds, "reward"):
                    rewards = concatenated([rewards, reward_groups(new, self.rewards)])
                for (slot, _), number in zip(local_draws, count(len(groups)), strict=False):
                    filling[slot // self.processes] = number
                groups = [*groups, *new]
            weighted = self.method.weigh(self.step_groups(step, groups, rewards.total, filling))
        return groups, rewards, weighted

    def restore(self, step: int, samples: Sequence[Sequence[Answer]]) -> None:
        """Restore the samples drawn ahead of `step` before an interruption.

        Args:
            step: within the stage, from 0.
            samples: of each prompt of the step over all processes; empty if there are none.
        """
        share = zip(self._items(step), samples[self.process :: self.processes], strict=True) if samples else ()
        groups = [decoded_group(item, answers, self.tokenizer) for item, answers in share]
        self.sampled = {step: groups} if groups else {}
        if groups:
            self.rewards.begin(reward_batch(groups))

    def share(self, step: int) -> list[tuple[int, Sequence[Answer]]]:
        """Return this process's samples drawn ahead of `step`: (index of the prompt in the step, its samples)."""
        slots = range(self.process, self.prompts_per_step, self.processes)
        groups = self.sampled.get(step, ())
        return [(slot, group.samples) for slot, group in zip(slots, groups, strict=False)]

    def _items(self, step: int) -> list[Encoded]:
        """Return the prompts of this process in a step."""
        return [self.items[index] for _, index in self.draws(step)[self.process :: self.processes]]

    def _sample(self, step: int, finished: Callable[[Group], None]) -> list[Group]:
        draws = self.draws(step)[self.process :: self.processes]
        keys = [draw_key(self.seed, step, epoch, index) for epoch, index in draws]
        return sample_groups(self._items(step), keys, self.generator, self.sampling, self.tokenizer, finished)

    def _sample_ahead(self, step: int, groups: list[Group]) -> list[Group]:
        """Sample the next step's groups if `ahead` is set; keep both steps in `sampled`."""
        if not self.ahead:
            return []
        self.sampled = {step: groups}
        if step + 1 >= self.steps:
            return []
        self.sampled[step + 1] = self._sample(step + 1, lambda group: None)
        return self.sampled[step + 1]

    def _begin(self, group: Group) -> None:
        """Let a judge on a server start on this group while the next ones are sampled."""
        self.rewards.begin(reward_batch([group]))

    def draws(self, step: int) -> list[tuple[int, int]]:
        """Return the B pairs (epoch, prompt index) of a step. Each epoch has its own order; a step may span two."""
        size, first = len(self.items), step * self.prompts_per_step
        positions = range(first, first + self.prompts_per_step)
        epochs = sorted({position // size for position in positions})
        order = {epoch: shuffled(size, draw_key(self.seed, "order", epoch)) for epoch in epochs}
        return [(position // size, order[position // size][position % size]) for position in positions]

    def step_groups(
        self, step: int, groups: Sequence[Group], rewards: Tensor, filling: Sequence[int] | None = None
    ) -> StepGroups:
        """Return what a method sees of a step.

        Args:
            step: within the stage, from 0.
            groups: all groups drawn so far.
            rewards: (B, G), NaN where missing.
            filling: indices of the groups that fill the step; by default all.
        """
        references = [len(self.items[index].reference_ids) for _, index in self.draws(step)]
        lengths = PerAnswer(
            torch.tensor([group.tokens(Role.SAMPLE) for group in groups]),
            *(torch.tensor([sum(group.tokens(role)) for group in groups]) for role in (Role.REFERENCE, Role.REJECTED)),
        )
        sampled = [sum(group.tokens(Role.SAMPLE)) for group in ([groups[n] for n in filling] if filling else groups)]
        tokens, filled = self.total(torch.tensor([sum(sampled), len(sampled)], dtype=torch.float64))
        mean = sum(references) / len(references)
        return StepGroups(rewards, lengths, mean, step, tokens / max(filled, 1), self.sampling.max_new_tokens)

    def assemble(self, experience: Experience) -> Update:
        """Build the update from the answers with non-zero weight."""
        weights = experience.weighted.weights
        signals = experience.weighted.signals or weights
        counted: list[Group] = []
        positions: list[tuple[int, int]] = []
        rows = zip(experience.groups, weights.rows(), signals.rows(), strict=True)
        for number, (group, factors, group_signals) in enumerate(rows):
            answers = [
                replace(answer, weight=0.0 if self.drop_truncated and answer.truncated else weight, signal=signal)
                for answer, weight, signal in zip(group.answers, factors, group_signals, strict=False)
            ]
            positions += [(number, index) for index, answer in enumerate(answers) if answer.weight]
            counted.append(Group(group.item, tuple(answer for answer in answers if answer.weight), number))
        batch = Batch(tuple(group for group in counted if group.answers))
        return Update(batch, positions, self.prompts_per_step, experience)


def shuffled(count: int, key: int) -> list[int]:
    """Return a permutation of range(count) that depends only on the key."""
    return np.random.Generator(np.random.Philox(key=key)).permutation(count).tolist()  # type: ignore[no-any-return]


@contextmanager
def _clock(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start
