"""A method from outside the package: learn from the best sample of each group, or from the reference if none wins."""

from typing import Literal

import torch

from grao.methods.base import Method, StepGroups, Weighted, method
from grao.settings import PositiveFloat
from grao.types import PerAnswer


@method
class BestOfGroup(Method):
    """Rejection sampling with the reference to fall back on."""

    name: Literal["best-of-group"] = "best-of-group"
    """The method."""
    reference: PositiveFloat = 1.0
    """Weight of the reference where no sample beats it."""

    def weigh(self, groups: StepGroups) -> Weighted:
        """1 for the best sample if it beats the reference, else for the reference."""
        rewards = groups.rewards.nan_to_num(-torch.inf)
        best = torch.zeros_like(rewards).scatter_(1, rewards.argmax(dim=1, keepdim=True), 1.0)
        won = rewards.amax(dim=1) > 0
        return Weighted(PerAnswer.of(best * won[:, None], self.reference * ~won))

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, torch.Tensor]:
        """How many groups were won."""
        return {"groups/won": (weighted.weights.samples > 0).any(dim=1).double()}
