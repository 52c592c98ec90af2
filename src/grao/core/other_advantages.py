"""Advantages that leave out parts of eq. 4, to see what each part is worth (`method.normalise`). Not the paper's.

Each takes and gives what `group_advantages` does; NaN is missing. Unlike there, a group without spread need not be 0,
and nothing bounds a value.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from grao.core.advantages import Advantages, Scope, group_advantages, members, spread


def raw_advantages(rewards: Tensor, reference_rewards: Tensor, scope: Scope = "joint") -> Advantages:
    """A = R: neither mean nor deviation, whatever the scope. Rewards relative to the reference give A_y = 0."""
    return _advantages(members(rewards, reference_rewards), rewards.shape[1])


def centred_advantages(rewards: Tensor, reference_rewards: Tensor, scope: Scope = "joint") -> Advantages:
    """A = R - mu with the mean of the group: prompts with much spread count more than those with little."""
    everyone = members(rewards, reference_rewards)
    group = everyone if scope == "joint" else everyone[:, :-1]
    return _advantages(spread(everyone, group)[0], rewards.shape[1])


def batch_advantages(rewards: Tensor, reference_rewards: Tensor, scope: Scope = "joint") -> Advantages:
    """A = (R - mu) / sigma over all groups of the step on this process: a hard prompt is below the mean throughout."""
    everyone = members(rewards, reference_rewards)
    batch = everyone if scope == "joint" else everyone[:, :-1]
    distance, deviation = spread(everyone, batch.reshape(1, -1))
    return _advantages(distance / deviation.where(deviation > 0, torch.inf), rewards.shape[1])


def _advantages(everyone: Tensor, samples: int) -> Advantages:
    """Apart again; a group with fewer than two scored members has none."""
    everyone = everyone.masked_fill(everyone.isfinite().sum(dim=1, keepdim=True) < 2, torch.nan)
    return Advantages(completions=everyone[:, :samples], reference=everyone[:, -1])


ADVANTAGES: Mapping[str, Callable[[Tensor, Tensor, Scope], Advantages]] = {
    "group": group_advantages,
    "mean": centred_advantages,
    "batch": batch_advantages,
    "none": raw_advantages,
}
"""How rewards become advantages, by the setting `method.normalise`; all but the first are for ablations."""
