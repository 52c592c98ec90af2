"""Several rewards as one: a weighted sum, in which what is missing stays missing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grao.errors import InputError
from grao.rewards.functions import FunctionReward
from grao.rewards.reward import Reward, RewardBatch


@dataclass(frozen=True)
class MixedRewards:
    """R(o, y) of B groups."""

    total: Tensor
    """(B, G) float64, NaN = missing."""
    parts: dict[str, Tensor]
    """(B, G) of each reward by name, before its weight."""


class Mix:
    """A weighted sum of rewards.

    A reward that says nothing about a whole group does not apply to that prompt and is left out of its sum (as
    in TRL). One that scored only some of a group failed on the others: there the sum is missing, never
    counted as 0.

    Args:
        rewards: at least one, with different names.
        weights: one for each; 1 by default.

    Raises:
        InputError: if there is no reward, two have the same name, or the weights are too few or too many.
    """

    def __init__(self, rewards: Sequence[Reward], weights: Sequence[float] | None = None) -> None:
        self.rewards = list(rewards)
        self.weights = list(weights) if weights is not None else [1.0] * len(self.rewards)
        names = [reward.name for reward in self.rewards]
        if not names or len(self.weights) != len(names):
            raise InputError(f"rewards: {len(names)} with {len(self.weights)} weights; give one or more, a weight each")
        if len(set(names)) < len(names):
            twice = max(names, key=names.count)
            raise InputError(f"rewards: two are called {twice!r}; give different names: FunctionReward(f, name='...')")

    def __call__(self, batch: RewardBatch) -> MixedRewards:
        """R(o, y) of every completion.

        Raises:
            InputError: if every sum is missing: what no reward says anything about teaches nothing.
        """
        parts = {reward.name: reward.relative(batch) for reward in self.rewards}
        total = torch.zeros_like(next(iter(parts.values())))
        applies = torch.zeros(len(total), dtype=torch.bool)
        for weight, part in zip(self.weights, parts.values(), strict=True):
            applied = ~part.isnan().all(dim=1)
            total[applied] += weight * part[applied]
            applies |= applied
        total[~applies] = torch.nan
        if total.numel() > 1 and total.isnan().all():  # one missing answer is no reason to stop
            silent = " and ".join(f"reward {name}" for name, part in parts.items() if part.isnan().any())
            message = f"{silent} returned None or NaN for every one of {total.numel()} answers, or for their references"
            raise InputError(message)
        return MixedRewards(total=total, parts=parts)


def as_mix(rewards: Mix | Reward | Callable[..., Any] | Sequence[Reward | Callable[..., Any]]) -> Mix:
    """One reward or several, plain functions included, as a mix with weight 1 each; a mix stays as it is."""
    if isinstance(rewards, Mix):
        return rewards
    several = rewards if isinstance(rewards, Sequence) else [rewards]
    return Mix([one if isinstance(one, Reward) else FunctionReward(one) for one in several])
