"""HPT (Lv et al., arXiv 2509.04419): imitate the reference where the group fails, else learn from the samples.

A group fails if the share of its samples that beat the reference is at most `gate`. Left out: more than one update
on a batch of samples, hence ratios.

The authors' script (github.com/TsinghuaC3I/Unify-Post-Training, `exp_scripts/train.sh`) does not divide by the
deviation and takes no mean over the tokens of samples (`grpo_use_std=False`, `loss_remove_token_mean=True`):
`normalise: false`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from grao.methods.base import Method, StepGroups, Weighted, method, scored_share
from grao.methods.chord import imitation_numbers
from grao.methods.grpo import among_samples, centred, sample_advantages
from grao.settings import Share
from grao.types import PerAnswer

if TYPE_CHECKING:
    from torch import Tensor


@method
class HPT(Method):
    """SFT on the reference where the group fails, else GRPO (arXiv 2509.04419)."""

    name: Literal["hpt"] = "hpt"
    """The method."""
    gate: Share = 0.0
    """A group fails if at most this share of its samples beats the reference."""
    normalise: bool = True
    """Divide advantages by the group's deviation, and sums over a sample's tokens by its length. If false, as in the
    authors' script, advantages are R - mean, and the sum is divided by `rollout.max_new_tokens`."""

    def weigh(self, groups: StepGroups) -> Weighted:
        """A_i / G where the group succeeds, |y| / mean|y| where it fails (eq. 8, 9); nothing where none was scored."""
        rewards = groups.rewards
        shares, advantages = scored_share(rewards), (sample_advantages if self.normalise else centred)(rewards)
        won = (shares * (rewards > 0)).sum(dim=1)  # share of scored samples
        failed = (shares.sum(dim=1) > 0) & (won <= self.gate)
        samples = (shares * advantages.nan_to_num(0.0)).masked_fill(failed[:, None], 0.0)
        if not self.normalise:
            samples = samples * groups.lengths.samples.to(rewards) / groups.limit
        references = failed * groups.lengths.reference.to(rewards) / groups.mean_reference
        return Weighted(PerAnswer.of(samples, references), among_samples(advantages))

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """How many groups failed."""
        failed = (weighted.weights.reference != 0).double()
        return {**imitation_numbers(weighted, loglik), "groups/failed": failed}
