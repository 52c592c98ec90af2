"""Where rollouts, rewards and method meet: step number in, weighted sequences out.

A step's prompts and samples follow from (seed, step) alone, so nothing has to be replayed after a resume and
processes can work without talking to each other.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from grao.data import Encoded
from grao.groups import Group, reward_batch, reward_groups, sample_groups
from grao.methods import Groups, Method, Role, Weighted
from grao.models import Batch
from grao.rewards import Mix, MixedRewards
from grao.rollouts import Generator, Sampling, draw_key


@dataclass(frozen=True)
class Experience:
    """What happened before the update: B groups of this process."""

    groups: list[Group]
    rewards: MixedRewards
    weighted: Weighted
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def sampled(self) -> bool:
        """Whether the policy answered; not every method lets it."""
        return self.rewards.total.shape[1] > 0


@dataclass(frozen=True)
class Update:
    """What one optimiser step learns from, on this process: S sequences with weights, out of B groups."""

    batch: Batch
    """Samples, references and rejected answers alike; none of its weights is 0. For a method with a loss of its own
    they are what the losses are multiplied with."""
    places: list[tuple[int, int]]
    """S, (group, column) of each sequence; column G is the reference, G + 1 the rejected answer."""
    prompts: int
    """Prompts of the step over all processes, the divisor of the loss."""
    experience: Experience
    roles: Tensor
    """(S,), a `Role` each."""
    weights: Tensor
    """(S,), what the method's own loss is told of each sequence; `Weighted.weights`."""


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
    """

    def __init__(
        self,
        items: Sequence[Encoded],
        generator: Generator,
        rewards: Mix,
        method: Method,
        tokenizer: PreTrainedTokenizerBase,
        sampling: Sampling,
        prompts_per_step: int,
        seed: int = 0,
        drop_truncated: bool = False,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.items, self.generator, self.rewards, self.method = items, generator, rewards, method
        self.tokenizer, self.sampling, self.prompts_per_step = tokenizer, sampling, prompts_per_step
        self.seed, self.drop_truncated = seed, drop_truncated
        self.process, self.processes = process, processes

    def update(self, step: int) -> Update:
        """Rollout, reward, weights of optimiser step `step` (from 0)."""
        seconds: dict[str, float] = {}
        draws = self.draws(step)[self.process :: self.processes]
        items = [self.items[index] for _, index in draws]
        keys = [draw_key(self.seed, step, epoch, index) for epoch, index in draws]
        groups = [Group(item, [], []) for item in items]
        rewards = MixedRewards(torch.zeros(len(items), 0, dtype=torch.float64), {})
        if self.method.needs.samples:
            with _clock(seconds, "rollout"):
                groups = sample_groups(items, keys, self.generator, self.sampling, self.tokenizer, self._begin)
            with _clock(seconds, "reward"):
                rewards = reward_groups(groups, self.rewards)
        weighted = self.method.weigh(self.groups(step, groups, rewards.total))
        return self.assemble(Experience(groups, rewards, weighted, seconds))

    def _begin(self, groups: Sequence[Group]) -> None:
        """A judge on a server reads these groups while the next ones are sampled."""
        self.rewards.begin(reward_batch(groups))

    def draws(self, step: int) -> list[tuple[int, int]]:
        """The (epoch, prompt) pairs of a step, B of them: epochs are shuffled anew and follow without a gap."""
        first = step * self.prompts_per_step
        places = range(first, first + self.prompts_per_step)
        epochs = sorted({place // len(self.items) for place in places})
        order = {epoch: shuffled(len(self.items), draw_key(self.seed, "order", epoch)) for epoch in epochs}
        return [
            (place // len(self.items), order[place // len(self.items)][place % len(self.items)]) for place in places
        ]

    def groups(self, step: int, groups: Sequence[Group], rewards: Tensor) -> Groups:
        """What a method is told of a step's groups; `rewards` is (B, G)."""
        references = [len(self.items[index].reference_ids) for _, index in self.draws(step)]
        return Groups(
            rewards=rewards,
            lengths=torch.tensor([[len(answer) for answer in _answers(group)] for group in groups]),
            mean_reference=sum(references) / len(references),
            step=step,
        )

    def assemble(self, experience: Experience) -> Update:
        """The answers that count, in order."""
        weighted, groups = experience.weighted, experience.groups
        counts = weighted.counts  # (B, G + 2)
        samples = counts.shape[1] - 2
        if self.drop_truncated:
            cut = [[*(c.truncated for c in group.completions), False, False] for group in groups]
            counts = counts.masked_fill(torch.tensor(cut), 0.0)
        answers = [_answers(group) for group in groups]
        places = [(group, column) for group, column in counts.nonzero().tolist()]
        return Update(
            batch=Batch(
                prompts=[groups[group].item.prompt_ids for group, _ in places],
                completions=[answers[group][column] for group, column in places],
                groups=[group for group, _ in places],
                weights=counts[counts != 0],
            ),
            places=places,
            prompts=self.prompts_per_step,
            experience=experience,
            roles=torch.tensor([max(Role.SAMPLE, column - samples + 1) for _, column in places], dtype=torch.long),
            weights=weighted.weights[counts != 0],
        )


def _answers(group: Group) -> list[Sequence[int]]:
    """Token ids of the G samples, the reference, and the rejected answer (empty if there is none)."""
    item = group.item
    return [*(completion.token_ids for completion in group.completions), item.reference_ids, item.rejected_ids]


def shuffled(count: int, key: int) -> list[int]:
    """A permutation of range(count) that depends on the key only."""
    return np.random.Generator(np.random.Philox(key=key)).permutation(count).tolist()  # type: ignore[no-any-return]


@contextmanager
def _clock(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - start
