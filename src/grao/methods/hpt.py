"""HPT (Lv et al., arXiv 2509.04419): SFT on the reference where the group fails, GRPO elsewhere.

A group fails if at most a share `gate` of its samples beats the reference. Not implemented: several updates per batch
of samples, so there are no probability ratios.

The authors' script (github.com/TsinghuaC3I/Unify-Post-Training, `exp_scripts/train.sh`) neither divides by the standard
deviation nor averages over the tokens of a sample (`grpo_use_std=False`, `loss_remove_token_mean=True`). With
`normalise: false` both are left out here too, and the sum over tokens is divided by `rollout.max_new_tokens`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from grao.methods.base import Method, StepGroups, Weighted, method, scored_share
from grao.methods.chord import imitation_numbers
from grao.methods.grpo import centred, sample_advantages, without_reference
from grao.settings import Share
from grao.types import PerAnswer

if TYPE_CHECKING:
    from torch import Tensor


@method
class HPT(Method):
    """SFT on the reference where the group fails, GRPO elsewhere (arXiv 2509.04419)."""

    name: Literal["hpt"] = "hpt"
    """The method."""
    gate: Share = 0.0
    """A group fails if no more than this share of its samples beats the reference."""
    normalise: bool = True
    """Divide advantages by the standard deviation and average over tokens; the authors' script does neither (false)."""

    def weigh(self, groups: StepGroups) -> Weighted:
        """Weights (eq. 8, 9): A_i / G for samples of successful groups, |y| / mean|y| for references of failed ones."""
        rewards = groups.rewards
        shares, advantages = scored_share(rewards), (sample_advantages if self.normalise else centred)(rewards)
        won = (shares * (rewards > 0)).sum(dim=1)  # (B,), share of the scored samples
        failed = (shares.sum(dim=1) > 0) & (won <= self.gate)
        samples = (shares * advantages.nan_to_num(0.0)).masked_fill(failed[:, None], 0.0)
        if not self.normalise:
            samples = samples * groups.lengths.samples.to(rewards) / groups.limit
        references = failed * groups.lengths.reference.to(rewards) / groups.mean_reference
        return Weighted(PerAnswer.of(samples, references), without_reference(advantages))

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """Report failed groups, groups without signal and the log-likelihood of the references."""
        failed = (weighted.weights.reference != 0).double()
        return {**imitation_numbers(weighted, loglik), "groups/failed": failed}
