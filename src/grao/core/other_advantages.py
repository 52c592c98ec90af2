"""Advantages that leave out parts of eq. 4, to see what each part is worth (`method.normalise`). Not the paper's.

Each takes and gives what `group_advantages` does; NaN is missing. Unlike there, a group without spread need not be 0,
and nothing bounds a value.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from grao.core.advantages import SAME, Advantages, Scope, group_advantages


def raw_advantages(rewards: Tensor, reference_rewards: Tensor, scope: Scope = "joint") -> Advantages:
    """A = R: neither mean nor deviation, whatever the scope. Rewards relative to the reference give A_y = 0."""
    return _advantages(_everyone(rewards, reference_rewards), rewards.shape[1])


def centred_advantages(rewards: Tensor, reference_rewards: Tensor, scope: Scope = "joint") -> Advantages:
    """A = R - mu with the mean of the group: prompts with much spread count more than those with little."""
    everyone = _everyone(rewards, reference_rewards)
    group = everyone if scope == "joint" else everyone[:, :-1]
    return _advantages(everyone - group.nanmean(dim=1, keepdim=True), rewards.shape[1])


def batch_advantages(rewards: Tensor, reference_rewards: Tensor, scope: Scope = "joint") -> Advantages:
    """A = (R - mu) / sigma over all groups of the step on this process: a hard prompt is below the mean throughout."""
    everyone = _everyone(rewards, reference_rewards)
    batch = everyone if scope == "joint" else everyone[:, :-1]
    known = batch[batch.isfinite()]
    deviation = known.std(correction=0) if known.numel() else known.sum()
    spread = deviation > SAME * known.abs().sum()  # else it is rounding
    return _advantages((everyone - known.mean()) / deviation.where(spread, 1.0) * spread, rewards.shape[1])


def _everyone(rewards: Tensor, reference_rewards: Tensor) -> Tensor:
    """(B, G + 1) float64, NaN = missing."""
    everyone = torch.cat([rewards.double(), reference_rewards.double()[:, None]], dim=1)
    return everyone.where(everyone.isfinite(), torch.nan)


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
