"""A method defined outside the package: train on the best sample of each group, or on the reference if none wins."""

from typing import Literal

import torch

from grao.methods.base import Method, StepGroups, Weighted, method
from grao.settings import PositiveFloat
from grao.types import PerAnswer


@method
class BestOfGroup(Method):
    """Rejection sampling that falls back on the reference."""

    name: Literal["best-of-group"] = "best-of-group"
    """Name of the method in a recipe."""
    reference: PositiveFloat = 1.0
    """Weight of the reference if no sample beats it."""

    def weigh(self, groups: StepGroups) -> Weighted:
        """Give weight 1 to the best sample if it beats the reference, else weight `reference` to the reference."""
        rewards = groups.rewards.nan_to_num(-torch.inf)
        best = torch.zeros_like(rewards).scatter_(1, rewards.argmax(dim=1, keepdim=True), 1.0)
        won = rewards.amax(dim=1) > 0
        return Weighted(PerAnswer.of(best * won[:, None], self.reference * ~won))

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, torch.Tensor]:
        """Report the share of groups in which a sample won."""
        return {"groups/won": (weighted.weights.samples > 0).any(dim=1).double()}
