"""SFT: imitate the reference, whatever the policy itself would say. A weighted likelihood without samples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from grao.methods.method import Groups, Needs, Weighted, columns


@dataclass(frozen=True)
class SFT:
    """Cross-entropy averaged over all reference tokens of the step, as in TRL's SFTTrainer on completions.

    J(y) is a mean over tokens, hence the weight of a reference is its length over the mean length:
    1/B * sum_y |y| / mean|y| * J(y) = sum_y sum_t log pi(y_t) / sum_y |y|.
    """

    needs = Needs(samples=False)
    loss = credit = None

    def weigh(self, groups: Groups) -> Weighted:
        """References by length; there is nothing else."""
        return Weighted(columns(torch.zeros_like(groups.rewards), groups.lengths[:, -2] / groups.mean_reference))

    def report(self, weighted: Weighted, completion_loglik: Tensor, reference_loglik: Tensor) -> dict[str, Tensor]:
        """How likely the references are, in nats per token."""
        return {"reference/loglik": reference_loglik}
