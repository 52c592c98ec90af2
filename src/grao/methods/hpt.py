"""HPT (Lv et al., arXiv 2509.04419): imitate the reference where the group fails, else learn from the samples.

A group fails if the share of its samples that beat the reference is at most `gate`. Left out: more than one update
on a batch of samples, hence ratios.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from grao.methods.chord import CHORDMu, group
from grao.methods.grpo import sample_advantages
from grao.methods.method import Groups, Needs, Weighted, columns, scored_share


@dataclass(frozen=True)
class HPT:
    """A weighted likelihood: A_i / G where the group succeeds, |y| / mean|y| where it fails (eq. 8 and 9)."""

    gate: float = 0.0
    """gamma, a share of the samples."""

    needs = Needs()
    loss = credit = None

    def weigh(self, groups: Groups) -> Weighted:
        """One of the two; nothing where no sample was scored."""
        rewards = groups.rewards
        shares, advantages = scored_share(rewards), sample_advantages(rewards)
        won = (shares * (rewards > 0)).sum(dim=1)  # share of scored samples
        judged = shares.sum(dim=1) > 0
        failed = judged & (won <= self.gate)
        samples = (shares * advantages.nan_to_num(0.0)).masked_fill(failed[:, None], 0.0)
        references = failed * groups.lengths[:, -2].to(rewards) / groups.mean_reference
        return Weighted(columns(samples, references), group(advantages))

    def report(self, weighted: Weighted, completion_loglik: Tensor, reference_loglik: Tensor) -> dict[str, Tensor]:
        """How many groups failed."""
        failed = (weighted.weights[:, -2] != 0).to(torch.float64)
        return {**CHORDMu().report(weighted, completion_loglik, reference_loglik), "groups/failed": failed}
