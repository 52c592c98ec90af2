"""GRAO: imitate while the reference is better, explore once samples win, go past the reference (paper, eq. 3, 4)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grao.core import group_advantages, objective_terms, sequence_weights
from grao.core.advantages import Advantages, Scope
from grao.core.objective import Sign
from grao.core.other_advantages import batch_advantages, centred_advantages, raw_advantages
from grao.methods.method import Groups, Needs, Weighted, columns

Normalise = Literal["group", "mean", "batch", "none"]

_ADVANTAGES: dict[Normalise, Callable[[Tensor, Tensor, Scope], Advantages]] = {
    "group": group_advantages,
    "mean": centred_advantages,
    "batch": batch_advantages,
    "none": raw_advantages,
}
"""How rewards become advantages; all but the first are for ablations."""


@dataclass(frozen=True)
class GRAO:
    """The paper's method; coefficients as in `grao.core.sequence_weights`."""

    beta: float = 0.5
    lambda_: float = 0.6
    exploration: float = 1.0
    scope: Scope = "joint"
    sign: Sign = "positive"
    normalise: Normalise = "group"

    needs = Needs()
    loss = credit = None

    def weigh(self, groups: Groups) -> Weighted:
        """Rewards -> group-relative advantages -> weights."""
        rewards = groups.rewards
        advantages = _ADVANTAGES[self.normalise](rewards, rewards.new_zeros(len(rewards)), self.scope)
        weights = sequence_weights(advantages, self.beta, self.lambda_, self.exploration, self.sign)
        return Weighted(columns(weights.completions, weights.reference), advantages)

    def report(self, weighted: Weighted, completion_loglik: Tensor, reference_loglik: Tensor) -> dict[str, Tensor]:
        """The three terms of eq. 3, what share of loss and gradient each has, and the reference's weight.

        Names that end in `_size` are magnitudes; the trainer turns each family of them into shares.
        """
        coefficients = (self.beta, self.lambda_, self.exploration, self.sign)
        advantages, reference_weights = weighted.advantages, weighted.weights[:, -2]
        terms = vars(objective_terms(advantages, completion_loglik, reference_loglik, *coefficients))
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
            "advantage/abs": mean_size,
            "reference_weight/mean": reference_weights,
            "reference_weight/negative": (reference_weights < 0).to(torch.float64),
            "groups/no_signal": advantages.no_signal.to(torch.float64),
            "groups/dropped": advantages.dropped.to(torch.float64),
        }
