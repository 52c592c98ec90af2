"""The policy at hand on the first prompts of the run: its samples, their rewards, and how long all of it takes."""

import math
import time
from collections.abc import Iterator, Sequence
from itertools import count, islice

import torch
from torch import Tensor

from grao.core import group_advantages
from grao.evaluation.audit.forecast import Timing
from grao.evaluation.audit.readings import Text
from grao.groups import Group, reward_groups, sample_groups
from grao.records.audit import GroupItem
from grao.rewards import MixedRewards
from grao.rollouts import draw_key
from grao.studies.audit.panel import Panel
from grao.studies.screen import Screen
from grao.training.experience import Experience, ExperienceSource
from grao.training.trainer import GRAOTrainer


def sample_policy(
    trainer: GRAOTrainer, panel: Panel, prompts: int, at_once: int, screen: Screen
) -> tuple[list[GroupItem], Timing]:
    """Groups on the first prompts of the run, drawn as its first steps will draw them, and a gradient that is timed.

    Args:
        trainer: of the run; no weight of its model moves.
        panel: the rewards; the second one is asked about the first sample of each group.
        prompts: number of groups; fewer if the data have fewer prompts.
        at_once: samples that are drawn at once.
        screen: shows progress.

    Raises:
        InputError, RewardUnavailableError: as `Mix.__call__`.
    """
    source = trainer.source
    draws = list(islice(_draws(source), min(prompts, len(source.items))))
    size = max(1, at_once // source.sampling.samples)
    groups: list[Group] = []
    mixed: list[MixedRewards] = []
    rollout = reward = 0.0
    known, asked = panel.questions()
    with screen.stage("samples of the model") as advance:
        for start in range(0, len(draws), size):
            begin = time.perf_counter()
            groups += _sample(source, draws[start : start + size])
            sampled = time.perf_counter()
            mixed.append(reward_groups(groups[start:], panel.mix))
            rollout, reward = rollout + sampled - begin, reward + time.perf_counter() - sampled
            panel.count_all(mixed[-1].tallies)
            advance(len(groups), len(draws))
    known, asked = (now - before for now, before in zip(panel.questions(), (known, asked), strict=True))
    experience = _experience(source, groups, mixed)
    timing = Timing(len(groups), rollout, reward, _time_update(trainer, experience), known / asked if asked else 0.0)
    return _items(experience, _second(panel, groups)), timing


def _draws(source: ExperienceSource) -> Iterator[tuple[int, int, int]]:
    """(step, epoch, prompt) in the order of training, without end."""
    return ((step, epoch, prompt) for step in count() for epoch, prompt in source.draws(step))


def _sample(source: ExperienceSource, draws: Sequence[tuple[int, int, int]]) -> list[Group]:
    keys = [draw_key(source.seed, *draw) for draw in draws]
    items = [source.items[prompt] for _, _, prompt in draws]
    return sample_groups(items, keys, source.generator, source.sampling, source.tokenizer)


def _experience(source: ExperienceSource, groups: list[Group], mixed: Sequence[MixedRewards]) -> Experience:
    total = torch.cat([one.total for one in mixed])
    parts = {name: torch.cat([one.parts[name] for one in mixed]) for name in mixed[0].parts}
    return Experience(groups, MixedRewards(total, parts), source.method.weigh(source.groups(0, groups, total)))


def _time_update(trainer: GRAOTrainer, experience: Experience) -> float | None:
    """Seconds of a gradient, None where nothing is to be learned."""
    update = trainer.source.assemble(experience)
    return trainer.time_update(update) if update.places else None


def _second(panel: Panel, groups: Sequence[Group]) -> dict[str, list[list[float | None]]]:
    """What the second reward says of the first sample of each group, by its name; empty without one."""
    if panel.second is None:
        return {}
    read = panel.ask_one(panel.second, [Text(group.item, group.texts[0]) for group in groups])
    return {panel.second.subject.name: [[one.value] for one in read]}


def _items(experience: Experience, second: dict[str, list[list[float | None]]]) -> list[GroupItem]:
    rewards = experience.rewards
    advantages = group_advantages(rewards.total, rewards.total.new_zeros(len(rewards.total)))  # whatever the method
    parts = {**{name: _known(part) for name, part in rewards.parts.items()}, **second}
    flags = zip(advantages.no_signal.tolist(), advantages.dropped.tolist(), strict=True)
    rows = zip(experience.groups, _known(rewards.total), flags, strict=True)
    return [
        GroupItem(
            id=group.item.example.id,
            prompt=group.item.prompt_text,
            reference=group.item.reference_text,
            reference_tokens=len(group.item.reference_ids),
            rewards=total,
            parts={name: part[place] for name, part in parts.items()},
            no_signal=no_signal,
            dropped=dropped,
            tokens=[len(completion.token_ids) for completion in group.completions],
            truncated=[completion.truncated for completion in group.completions],
            best=max(zip(group.texts, total, strict=True), key=_reward)[0],
        )
        for place, (group, total, (no_signal, dropped)) in enumerate(rows)
    ]


def _reward(sample: tuple[str, float | None]) -> float:
    return -math.inf if sample[1] is None else sample[1]


def _known(rewards: Tensor) -> list[list[float | None]]:
    """(B, G) with None for NaN."""
    return [[None if math.isnan(one) else one for one in row] for row in rewards.tolist()]
