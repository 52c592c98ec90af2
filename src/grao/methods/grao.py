"""GRAO: imitate while the reference is better, explore once samples win, go past the reference (paper, eq. 3, 4)."""

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
    """GRAO's coefficients (paper, eq. 3 and 4)."""

    name: Literal["grao"] = "grao"
    """The method."""
    beta: NonNegativeFloat = 0.5
    """Weight of imitation."""
    lambda_: Annotated[NonNegativeFloat, Field(alias="lambda")] = 0.6
    """Weight of the alignment regulariser."""
    exploration: NonNegativeFloat = 1.0
    """Weight of exploration; 1 in the paper."""
    scope: Literal["joint", "samples"] = "joint"
    """Normalise over samples and reference together, or over the samples alone."""
    sign: Literal["signed", "positive"] = "positive"
    """`signed` is eq. 3 as printed; `positive` never pushes the reference down (docs/method.md says why it is ours)."""
    normalise: Literal["group", "mean", "batch", "none"] = "group"
    """`group` is eq. 4. For ablations: less the group's mean only, over the step's batch, or rewards as they are."""

    def weigh(self, groups: StepGroups) -> Weighted:
        """Rewards -> group-relative advantages -> weights."""
        rewards = groups.rewards
        advantages = core.ADVANTAGES[self.normalise](rewards, rewards.new_zeros(len(rewards)), self.scope)
        weights = core.sequence_weights(advantages, self.beta, self.lambda_, self.exploration, self.sign)
        return Weighted(PerAnswer.of(weights.completions, weights.reference), advantages)

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """The three terms of eq. 3, what share of loss and gradient each has, and the reference's weight.

        Names that end in `_size` are magnitudes; the trainer turns each family of them into shares.
        """
        coefficients = (self.beta, self.lambda_, self.exploration, self.sign)
        advantages, reference_weights = weighted.advantages, weighted.weights.reference
        terms = vars(core.objective_terms(advantages, loglik.samples, loglik.reference, *coefficients))
        samples, reference = advantages.completions, advantages.reference
        mean_size, mean = samples.abs().nanmean(dim=1), samples.nanmean(dim=1)
        taken = reference_weights != 0  # where the sign policy lets the reference take part
        pull = {
            "exploration": self.exploration * mean_size,
            "imitation": self.beta * reference.abs() * taken,
            "regulariser": self.lambda_ * (mean_size + mean.abs() * taken),
        }
        return {
            **{f"terms/{name}": value for name, value in terms.items()},
            **{f"terms_size/{name}": value.abs() for name, value in terms.items()},
            **{f"weight_size/{name}": value for name, value in pull.items()},
            "advantage/reference": reference,
            "reference_weight/mean": reference_weights,
            "reference_weight/negative": (reference_weights < 0).to(torch.float64),
            **group_numbers(advantages),
        }

    def kappa(self, samples: int) -> float | None:
        """Weight of the reference to that of a sample, each per unit of advantage, in groups of G = `samples`.

        (beta + lambda / G) / (alpha + lambda) in scope `joint`, beta / (alpha + lambda) in scope `samples`: all
        that the coefficients set but for a common scale. None where eq. 4 is not followed or samples do not count.
        """
        on_samples = self.exploration + self.lambda_
        if self.normalise != "group" or not on_samples:
            return None
        shared = self.lambda_ / samples if self.scope == "joint" else 0.0
        return (self.beta + shared) / on_samples
