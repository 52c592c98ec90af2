"""What the policy at hand makes of the rewards before training: groups of samples on training prompts.

The prompts are the units: samples of one prompt hang together. Left out: how any of it changes while training goes on.
"""

from collections.abc import Callable, Sequence

import numpy as np

from grao.evaluation.audit.correlation import within_groups
from grao.evaluation.intervals import mean, mean_share, proportion
from grao.records.audit import GroupItem, Policy, Spread
from grao.records.evaluation import Estimate


def policy_figures(groups: Sequence[GroupItem], confidence: float = 0.95) -> Policy:
    """All figures from at least one group; see `Policy`. A group without any reward counts in shares of prompts as not
    beating its reference, and is in no spread."""
    scored = [[reward for reward in group.rewards if reward is not None] for group in groups]
    some = [np.array(rewards) for rewards in scored if rewards] or [np.zeros(1)]
    means, deviations = np.array([one.mean() for one in some]), np.array([one.std() for one in some])
    wins = [sum(reward > 0 for reward in rewards) / len(rewards) for rewards in scored if rewards]
    total = sum(len(group.rewards) for group in groups)

    def share(holds: Callable[[GroupItem], bool]) -> Estimate:
        return proportion(sum(map(holds, groups)), len(groups), confidence)

    return Policy(
        prompts=len(groups),
        samples=len(groups[0].rewards),
        mean_beats=share(lambda group: group_mean(group) > 0),
        some_beats=share(lambda group: any(reward is not None and reward > 0 for reward in group.rewards)),
        wins=mean_share(wins or [0.0], confidence),
        no_signal=share(lambda group: group.no_signal),
        dropped=share(lambda group: group.dropped),
        missing=1 - sum(map(len, scored)) / total,
        truncated=mean_share([sum(group.truncated) / len(group.truncated) for group in groups], confidence),
        reward=_spread(means),
        deviation=_spread(deviations),
        between=_between(means, deviations),
        tokens=mean([sum(group.tokens) / len(group.tokens) for group in groups], confidence),
        reference_tokens=sum(group.reference_tokens for group in groups) / len(groups),
        length_correlation=within_groups([_rewards_and_lengths(group) for group in groups], confidence),
    )


def group_mean(group: GroupItem) -> float:
    """Mean reward of a group's samples, 0 where none has one."""
    rewards = [reward for reward in group.rewards if reward is not None]
    return sum(rewards) / len(rewards) if rewards else 0.0


def mean_size(rewards: Sequence[Sequence[float | None]]) -> float:
    """Mean |R| over all samples that have one, 0 where none has."""
    sizes = [abs(reward) for group in rewards for reward in group if reward is not None]
    return sum(sizes) / len(sizes) if sizes else 0.0


def _between(means: np.ndarray, deviations: np.ndarray) -> float | None:
    """Variance of the group means as a share of it and the mean variance within groups."""
    between, within = float(means.var()), float((deviations**2).mean())
    return between / (between + within) if between + within > 0 else None


def _spread(values: np.ndarray) -> Spread:
    return Spread(*(float(point) for point in np.quantile(values, [0, 0.25, 0.5, 0.75, 1])))


def _rewards_and_lengths(group: GroupItem) -> tuple[list[float], list[float]]:
    pairs = [(reward, tokens) for reward, tokens in zip(group.rewards, group.tokens, strict=True) if reward is not None]
    return [reward for reward, _ in pairs], [float(tokens) for _, tokens in pairs]
