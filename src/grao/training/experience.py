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
from transformers import PreTrainedTokenizerBase

from grao.data import Encoded
from grao.groups import Group, reward_groups, sample_groups
from grao.methods import Method, Weighted
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


@dataclass(frozen=True)
class Update:
    """What one optimiser step learns from, on this process: S sequences with weights, out of B groups."""

    batch: Batch
    """Samples and references alike; no weight is 0."""
    places: list[tuple[int, int]]
    """S, (group, member) of each sequence; member G is the reference."""
    prompts: int
    """Prompts of the step over all processes, the divisor of the loss."""
    experience: Experience


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
        with _clock(seconds, "rollout"):
            keys = [draw_key(self.seed, step, epoch, index) for epoch, index in draws]
            groups = sample_groups(items, keys, self.generator, self.sampling, self.tokenizer)
        with _clock(seconds, "reward"):
            rewards = reward_groups(groups, self.rewards)
        return self.assemble(Experience(groups, rewards, self.method.weigh(rewards.total), seconds))

    def draws(self, step: int) -> list[tuple[int, int]]:
        """The (epoch, prompt) pairs of a step, B of them: epochs are shuffled anew and follow without a gap."""
        first = step * self.prompts_per_step
        places = range(first, first + self.prompts_per_step)
        epochs = sorted({place // len(self.items) for place in places})
        order = {epoch: shuffled(len(self.items), draw_key(self.seed, "order", epoch)) for epoch in epochs}
        return [
            (place // len(self.items), order[place // len(self.items)][place % len(self.items)]) for place in places
        ]

    def assemble(self, experience: Experience) -> Update:
        """Samples and references with a weight other than 0, in order."""
        weights, groups = experience.weighted.weights, experience.groups
        table = torch.cat([weights.completions, weights.reference[:, None]], dim=1)  # (B, G + 1)
        if self.drop_truncated:
            cut = [[completion.truncated for completion in group.completions] + [False] for group in groups]
            table = table.masked_fill(torch.tensor(cut), 0.0)
        answers = [[*(c.token_ids for c in group.completions), group.item.reference_ids] for group in groups]
        places = [(group, member) for group, member in table.nonzero().tolist()]
        return Update(
            batch=Batch(
                prompts=[groups[group].item.prompt_ids for group, _ in places],
                completions=[answers[group][member] for group, member in places],
                groups=[group for group, _ in places],
                weights=table[table != 0],
            ),
            places=places,
            prompts=self.prompts_per_step,
            experience=experience,
        )


def shuffled(count: int, key: int) -> list[int]:
    """A permutation of range(count) that depends on the key only."""
    return np.random.Generator(np.random.Philox(key=key)).permutation(count).tolist()  # type: ignore[no-any-return]


@contextmanager
def _clock(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - start
