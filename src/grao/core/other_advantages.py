"""Variants of eq. 4 for ablations (`method.normalise`): each leaves part of it out. They are not in the paper.

All have the signature of `group_advantages`; NaN = missing. Differences from it: advantages are unbounded, a group
without spread may have advantages other than 0, and in either scope the reference counts as a scored member.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from grao.core.advantages import Advantages, Scope, group_advantages, group_members, spread


def raw_advantages(rewards: Tensor, reference_rewards: Tensor, scope: Scope = "joint") -> Advantages:
    """Return A = R, without mean or deviation, in either scope. A_y is 0 for rewards relative to the reference.

    Args:
        rewards: as for `group_advantages`.
        reference_rewards: as for `group_advantages`.
        scope: as for `group_advantages`.

    Returns:
        Advantages, with ties and missing rewards as in `group_advantages`.
    """
    return _advantages(group_members(rewards, reference_rewards), rewards.shape[1])


def centred_advantages(rewards: Tensor, reference_rewards: Tensor, scope: Scope = "joint") -> Advantages:
    """Return A = R - mu with the group mean: prompts with a large spread of rewards count more.

    Args:
        rewards: as for `group_advantages`.
        reference_rewards: as for `group_advantages`.
        scope: as for `group_advantages`.

    Returns:
        Advantages, with ties and missing rewards as in `group_advantages`.
    """
    members = group_members(rewards, reference_rewards)
    group = members if scope == "joint" else members[:, :-1]
    return _advantages(spread(members, group)[0], rewards.shape[1])


def batch_advantages(rewards: Tensor, reference_rewards: Tensor, scope: Scope = "joint") -> Advantages:
    """Return A = (R - mu) / sigma over all groups of the step on this process: on hard prompts all samples get A < 0.

    Args:
        rewards: as for `group_advantages`.
        reference_rewards: as for `group_advantages`.
        scope: as for `group_advantages`.

    Returns:
        Advantages, with ties and missing rewards as in `group_advantages`.
    """
    members = group_members(rewards, reference_rewards)
    batch = members if scope == "joint" else members[:, :-1]
    distance, deviation = spread(members, batch.reshape(1, -1))
    return _advantages(distance / deviation.where(deviation > 0, torch.inf), rewards.shape[1])


def _advantages(members: Tensor, samples: int) -> Advantages:
    """Split (B, G + 1) values into samples and reference; drop groups with fewer than two scored members."""
    members = members.masked_fill(members.isfinite().sum(dim=1, keepdim=True) < 2, torch.nan)
    return Advantages(completions=members[:, :samples], reference=members[:, -1])


ADVANTAGES: Mapping[str, Callable[[Tensor, Tensor, Scope], Advantages]] = {
    "group": group_advantages,
    "mean": centred_advantages,
    "batch": batch_advantages,
    "none": raw_advantages,
}
"""Advantage functions by the setting `method.normalise`; `group` is eq. 4, the others are for ablations."""
