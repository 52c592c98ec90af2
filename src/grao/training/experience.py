"""Where rollouts, rewards and method meet: step number in, weighted groups out.

A step's prompts and samples follow from (seed, step) and the weights, so nothing has to be replayed after a resume, and
processes tell each other no more than how much they drew and which groups teach nothing. Samples that are drawn one
step ahead come from weights that the step before then changes; `sampled` holds them, and so does a checkpoint.
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
from grao.rewards.mix import Mix, MixedRewards, joined
from grao.rollouts.base import Generator, Sampling, draw_key
from grao.types import Answer, Batch, Encoded, Group, PerAnswer, Role


@dataclass(frozen=True)
class Experience:
    """What happened before the update: B groups of this process."""

    groups: list[Group]
    """With `Needs.resample` all that were drawn: those of the step's own prompts, then the further ones."""
    rewards: MixedRewards
    weighted: Weighted
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def sampled(self) -> bool:
        """Whether the policy answered; not every method lets it."""
        return self.rewards.total.shape[1] > 0

    @property
    def scored_counts(self) -> Tensor:
        """(2,), how many answers have a reward, and how many there are."""
        total = self.rewards.total
        return torch.tensor([int((~total.isnan()).sum()), total.numel()])


@dataclass(frozen=True)
class Update:
    """What one optimiser step learns from, on this process."""

    batch: Batch
    """The S answers whose weight is not 0: samples, references and rejected answers alike."""
    positions: list[tuple[int, int]]
    """S, (number of the group, index in `Group.answers` of the whole group) of each."""
    prompts: int
    """Prompts of the step over all processes, the divisor of the loss."""
    experience: Experience

    def per_answer(self, values: Tensor) -> PerAnswer:
        """(S,) values by group and role, float64; 0 where an answer does not count."""
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
    """Yields the update of any step.

    Args:
        items: all training prompts.
        generator, rewards, method: what samples, judges and weighs.
        tokenizer: turns samples into text for the rewards.
        sampling: G and how to draw.
        prompts_per_step: B over all processes.
        seed: of order and sampling.
        drop_truncated: give truncated samples weight 0. They stay in their group's mean and deviation.
        process, processes: which share of the prompts this process takes.
        ahead: 1 samples each step's successor while a judge reads its own samples.
        steps: optimizer steps of the stage; nothing is sampled ahead beyond them.
        total: adds a tensor up over all processes.
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
    """Step -> its groups on this process, with `ahead`: the step that is under way, and the next."""
    last: Experience | None = None
    """Of the last step."""

    def update(self, step: int) -> Update:
        """Rollout, reward, weights of optimiser step `step` (from 0)."""
        seconds: dict[str, float] = {}
        if self.method.needs.samples:
            with _clock(seconds, "rollout"):
                known = self.sampled.get(step) if step else None  # at step 0 it would be of another training
                groups = known or self._sample(step, self._begin)
                coming = self._sample_ahead(step, groups)
            with _clock(seconds, "reward"):
                rewards = reward_groups(groups, self.rewards)
            if coming:
                self.rewards.begin(reward_batch(coming))  # only now: it belongs to the next judgement
        else:
            groups = [Group.of(item, ()) for item in self._items(step)]
            rewards = MixedRewards(torch.zeros(len(groups), 0, dtype=torch.float64), {})
        groups, rewards, weighted = self._resampled(step, groups, rewards, seconds)
        self.last = Experience(groups, rewards, weighted, seconds)
        return self.assemble(self.last)

    def _resampled(
        self, step: int, groups: list[Group], rewards: MixedRewards, seconds: dict[str, float]
    ) -> tuple[list[Group], MixedRewards, Weighted]:
        """The groups with their weights, after further prompts took the places of those without any.

        At most `Needs.resample` times, and no prompt twice in a step. The j-th place without weight, over all
        processes, gets the j-th prompt of an order that depends on (seed, step) only, and its samples depend on (seed,
        step, prompt): they are the same on one process or several, and after a resume.
        """
        places = list(range(len(groups)))  # which group stands in each place of this process
        weighted = self.method.weigh(self.step_groups(step, groups, rewards.total, places))
        if not self.method.needs.resample:
            return groups, rewards, weighted
        had = {index for _, index in self.draws(step)}
        order = shuffled(len(self.items), draw_key(self.seed, "further", step))
        further = (index for index in order if index not in had)
        for _ in range(self.method.needs.resample):
            rows, silent = list(weighted.weights.rows()), torch.zeros(self.prompts_per_step, dtype=torch.float64)
            silent[self.process :: self.processes] = torch.tensor([float(not any(rows[number])) for number in places])
            draws = list(zip([place for place, flag in enumerate(self.total(silent)) if flag], further, strict=False))
            if not draws:
                break
            own = [(place, index) for place, index in draws if place % self.processes == self.process]
            if own:
                items = [self.items[index] for _, index in own]
                keys = [draw_key(self.seed, step, "further", index) for _, index in own]
                with _clock(seconds, "rollout"):
                    new = sample_groups(items, keys, self.generator, self.sampling, self.tokenizer, self._begin)
                with _clock(seconds, "reward"):
                    rewards = joined([rewards, reward_groups(new, self.rewards)])
                for (place, _), number in zip(own, count(len(groups)), strict=False):
                    places[place // self.processes] = number
                groups = [*groups, *new]
            weighted = self.method.weigh(self.step_groups(step, groups, rewards.total, places))
        return groups, rewards, weighted

    def restore(self, step: int, samples: Sequence[Sequence[Answer]]) -> None:
        """Takes up what was sampled ahead of `step` before an interruption: samples of all its prompts, or nothing."""
        share = zip(self._items(step), samples[self.process :: self.processes], strict=True) if samples else ()
        groups = [decoded_group(item, answers, self.tokenizer) for item, answers in share]
        self.sampled = {step: groups} if groups else {}
        if groups:
            self.rewards.begin(reward_batch(groups))

    def share(self, step: int) -> list[tuple[int, Sequence[Answer]]]:
        """What is there ahead of `step` on this process: the place of each prompt in the step, and its samples."""
        places = range(self.process, self.prompts_per_step, self.processes)
        groups = self.sampled.get(step, ())
        return [(place, group.samples) for place, group in zip(places, groups, strict=False)]

    def _items(self, step: int) -> list[Encoded]:
        """The prompts of this process."""
        return [self.items[index] for _, index in self.draws(step)[self.process :: self.processes]]

    def _sample(self, step: int, finished: Callable[[Group], None]) -> list[Group]:
        draws = self.draws(step)[self.process :: self.processes]
        keys = [draw_key(self.seed, step, epoch, index) for epoch, index in draws]
        return sample_groups(self._items(step), keys, self.generator, self.sampling, self.tokenizer, finished)

    def _sample_ahead(self, step: int, groups: list[Group]) -> list[Group]:
        """The groups of the next step, if they are to be sampled now; those of this one are kept until then."""
        if not self.ahead:
            return []
        self.sampled = {step: groups}
        if step + 1 >= self.steps:
            return []
        self.sampled[step + 1] = self._sample(step + 1, lambda group: None)
        return self.sampled[step + 1]

    def _begin(self, group: Group) -> None:
        """A judge on a server reads this group while the next ones are sampled."""
        self.rewards.begin(reward_batch([group]))

    def draws(self, step: int) -> list[tuple[int, int]]:
        """The (epoch, prompt) pairs of a step, B of them: epochs are shuffled anew and follow without a gap."""
        size, first = len(self.items), step * self.prompts_per_step
        positions = range(first, first + self.prompts_per_step)
        epochs = sorted({position // size for position in positions})
        order = {epoch: shuffled(size, draw_key(self.seed, "order", epoch)) for epoch in epochs}
        return [(position // size, order[position // size][position % size]) for position in positions]

    def step_groups(
        self, step: int, groups: Sequence[Group], rewards: Tensor, places: Sequence[int] | None = None
    ) -> StepGroups:
        """What a method is told of a step's groups; `rewards` is (B, G), `places` are those that fill the step."""
        references = [len(self.items[index].reference_ids) for _, index in self.draws(step)]
        lengths = PerAnswer(
            torch.tensor([group.tokens(Role.SAMPLE) for group in groups]),
            *(torch.tensor([sum(group.tokens(role)) for group in groups]) for role in (Role.REFERENCE, Role.REJECTED)),
        )
        sampled = [sum(group.tokens(Role.SAMPLE)) for group in ([groups[n] for n in places] if places else groups)]
        tokens, filled = self.total(torch.tensor([sum(sampled), len(sampled)], dtype=torch.float64))
        mean = sum(references) / len(references)
        return StepGroups(rewards, lengths, mean, step, tokens / max(filled, 1), self.sampling.max_new_tokens)

    def assemble(self, experience: Experience) -> Update:
        """Build the update from the answers whose weight is not zero."""
        weights = experience.weighted.weights
        signals = experience.weighted.signals or weights
        counted: list[Group] = []
        positions: list[tuple[int, int]] = []
        rows = zip(experience.groups, weights.rows(), signals.rows(), strict=True)
        for number, (group, factors, told) in enumerate(rows):
            answers = [
                replace(answer, weight=0.0 if self.drop_truncated and answer.truncated else weight, signal=signal)
                for answer, weight, signal in zip(group.answers, factors, told, strict=False)
            ]
            positions += [(number, index) for index, answer in enumerate(answers) if answer.weight]
            counted.append(Group(group.item, tuple(answer for answer in answers if answer.weight), number))
        batch = Batch(tuple(group for group in counted if group.answers))
        return Update(batch, positions, self.prompts_per_step, experience)


def shuffled(count: int, key: int) -> list[int]:
    """A permutation of range(count) that depends on the key only."""
    return np.random.Generator(np.random.Philox(key=key)).permutation(count).tolist()  # type: ignore[no-any-return]


@contextmanager
def _clock(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start
