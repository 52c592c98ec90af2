"""SFT: imitate the references. A weighted likelihood without samples.

The loss is the cross-entropy averaged over all reference tokens of the step, as in TRL's SFTTrainer with
completion-only loss. J(y) is already a mean over tokens, so the weight of a reference is its length over the mean
length:

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
    """Supervised fine-tuning on the references; nothing is sampled."""

    name: Literal["sft"] = "sft"
    """The method."""

    needs = Needs(samples=False)

    def weigh(self, groups: StepGroups) -> Weighted:
        """Weight each reference by |y| / mean|y|."""
        reference = groups.lengths.reference / groups.mean_reference
        return Weighted(PerAnswer.of(groups.rewards.new_zeros(groups.rewards.shape), reference))

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Report the log-likelihood of the references, in nats per token."""
        return {"reference/loglik": loglik.reference}
