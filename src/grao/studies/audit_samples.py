"""The policy at hand on the first prompts of the run: its samples, their rewards, and how long all of it takes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from grao.data import Encoded
from grao.evaluation.forecast import Timing
from grao.evaluation.readings import Text
from grao.groups import Group, reward_groups, sample_groups
from grao.methods import Weighted
from grao.records.audit import GroupItem
from grao.rewards import MixedRewards
from grao.rollouts import draw_key
from grao.studies.audit_panel import Panel
from grao.studies.screen import Screen
from grao.training.experience import Experience
from grao.training.trainer import GRAOTrainer


@dataclass(frozen=True)
class Sampled:
    """Groups with their rewards."""

    groups: list[Group]
    items: list[GroupItem]
    timing: Timing


def sample_policy(trainer: GRAOTrainer, panel: Panel, prompts: int, rows: int, screen: Screen) -> Sampled:
    """Groups on the first prompts of the run, drawn as its first steps will draw them, and one gradient on them.

    Args:
        trainer: of the run; no weight of its model moves.
        panel: the second reward, if there is one, is asked about the first sample of each group.
        prompts: number of groups; fewer if the data have fewer prompts.
        rows: samples that are drawn at once.
        screen: shows progress.
    """
    source = trainer.source
    draws = _first_draws(trainer, min(prompts, len(source.items)))
    at_once = max(1, rows // source.sampling.samples)
    groups: list[Group] = []
    mixed: list[MixedRewards] = []
    seconds = {"rollout": 0.0, "reward": 0.0}
    known_before = sum(tally.cached for tally in panel.tallies.values())
    asked_before = _asked(panel)
    with screen.stage("samples") as advance:
        for start in range(0, len(draws), at_once):
            chunk = draws[start : start + at_once]
            begin = time.perf_counter()
            keys = [draw_key(source.seed, *place) for place in chunk]
            items = [source.items[index] for _, _, index in chunk]
            drawn = sample_groups(items, keys, source.generator, source.sampling, source.tokenizer)
            sampled = time.perf_counter()
            mixed.append(reward_groups(drawn, panel.mix))
            seconds["reward"] += time.perf_counter() - sampled
            seconds["rollout"] += sampled - begin
            panel.count_all(mixed[-1].tallies)
            groups += drawn
            advance(len(groups), len(draws))
    known = sum(tally.cached for tally in panel.tallies.values()) - known_before
    asked = _asked(panel) - asked_before
    return Sampled(groups, [], Timing(len(groups), seconds["rollout"], seconds["reward"], None, known / max(asked, 1)))
