"""SFT: imitate the reference, whatever the policy itself would say. A weighted likelihood without samples.

Cross-entropy averaged over all reference tokens of the step, as in TRL's SFTTrainer on completions. J(y) is a mean over
tokens, hence the weight of a reference is its length over the mean length:

    1/B * sum_y |y| / mean|y| * J(y) = sum_y sum_t log pi(y_t) / sum_y |y|
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from grao.methods.base import Method, Needs, StepGroups, Weighted, method
from grao.types import PerAnswer

if TYPE_CHECKING:
    from torch import Tensor


@method
class SFT(Method):
    """Imitation of the references; nothing is sampled."""

    name: Literal["sft"] = "sft"
    """The method."""

    needs = Needs(samples=False)

    def weigh(self, groups: StepGroups) -> Weighted:
        """References by length; there is nothing else."""
        reference = groups.lengths.reference / groups.mean_reference
        return Weighted(PerAnswer.of(groups.rewards.new_zeros(groups.rewards.shape), reference))

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """How likely the references are, in nats per token."""
        return {"reference/loglik": loglik.reference}
