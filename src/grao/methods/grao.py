"""GRAO (paper, eq. 3 and 4): imitate while the reference is better, explore once samples win, surpass the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from grao.lazy import core, torch
from grao.methods.base import Method, StepGroups, Weighted, group_numbers, method
from grao.settings import NonNegativeFloat
from grao.types import PerAnswer

if TYPE_CHECKING:
    from torch import Tensor


@method
class GRAO(Method):
    """Group Relative Alignment Optimization (paper, eq. 3 and 4)."""

    name: Literal["grao"] = "grao"
    """The method."""
    beta: NonNegativeFloat = 0.5
    """Weight of the imitation term."""
    lambda_: Annotated[NonNegativeFloat, Field(alias="lambda")] = 0.6
    """Weight of the alignment regulariser."""
    exploration: NonNegativeFloat = 1.0
    """Weight of the exploration term; 1 in the paper."""
    scope: Literal["joint", "samples"] = "joint"
    """Normalise rewards over samples and reference together (`joint`), or over the samples alone."""
    sign: Literal["signed", "positive"] = "positive"
    """`signed` is eq. 3 as printed; `positive` never pushes the reference down (reasons in docs/method.md)."""
    normalise: Literal["group", "mean", "batch", "none"] = "group"
    """`group` is eq. 4. For ablations: subtract the mean only, normalise over the batch, or use raw rewards."""

    def weigh(self, groups: StepGroups) -> Weighted:
        """Turn rewards into group-relative advantages (eq. 4), and these into the weights of eq. 3."""
        rewards = groups.rewards
        advantages = core.ADVANTAGES[self.normalise](rewards, rewards.new_zeros(len(rewards)), self.scope)
        weights = core.sequence_weights(advantages, self.beta, self.lambda_, self.exploration, self.sign)
        return Weighted(PerAnswer.of(weights.completions, weights.reference), advantages)

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Report the three terms of eq. 3, the sizes of the terms and their coefficients, and the reference's weight.

        The trainer turns each family of metrics whose prefix ends in `_size` into shares of the family's sum.
        """
        coefficients = (self.beta, self.lambda_, self.exploration, self.sign)
        advantages, reference_weights = weighted.advantages, weighted.weights.reference
        terms = vars(core.objective_terms(advantages, loglik.samples, loglik.reference, *coefficients))
        samples, reference = advantages.completions, advantages.reference
        mean_size, mean = samples.abs().nanmean(dim=1), samples.nanmean(dim=1)
        active = reference_weights != 0  # `sign: positive` gives some references weight 0
        coefficient_sizes = {
            "exploration": self.exploration * mean_size,
            "imitation": self.beta * reference.abs() * active,
            "regulariser": self.lambda_ * (mean_size + mean.abs() * active),
        }
        return {
            **{f"terms/{name}": value for name, value in terms.items()},
            **{f"terms_size/{name}": value.abs() for name, value in terms.items()},
            **{f"weight_size/{name}": value for name, value in coefficient_sizes.items()},
            "advantage/reference": reference,
            "reference_weight/mean": reference_weights,
            "reference_weight/negative": (reference_weights < 0).to(torch.float64),
            **group_numbers(advantages),
        }

    def kappa(self, samples: int) -> float | None:
        """Ratio of the reference's weight to that of all samples, each per unit of advantage.

        Up to a common scale, this ratio is all that the coefficients determine: (beta + lambda / G) / (alpha + lambda)
        in scope `joint`, beta / (alpha + lambda) in scope `samples`.

        Args:
            samples: group size G.

        Returns:
            kappa; None if advantages do not follow eq. 4 or samples have no weight.
        """
        on_samples = self.exploration + self.lambda_
        if self.normalise != "group" or not on_samples:
            return None
        shared = self.lambda_ / samples if self.scope == "joint" else 0.0
        return (self.beta + shared) / on_samples
