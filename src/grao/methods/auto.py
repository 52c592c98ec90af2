"""GRAO that sets its own balance, group by group: explore where samples differ, imitate where all of them lose.

In eq. 3 the coefficients beta and lambda fix how much the reference counts beside the samples, also where exploration
alone would do better (docs/results.md). Here the group decides:

    a sample ties or wins       w_i = A_i / G        w_y = 0            samples against each other alone
    every sample loses          w_i = A_i / G        w_y = beta * sqrt(G) * (1, or the share of such groups)

A_i is taken over the samples (scope `samples`), so a group that loses throughout by the same verdict has A_i = 0 and
learns from its reference alone. The reference is never pushed down. With `rule: step` imitation fades as fewer groups
of the step (on this process) lose. Not in the paper, and an experiment: on tasks that it was not tuned on it is behind
plain GRAO (docs/results.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from grao.lazy import core, torch
from grao.methods.base import Method, StepGroups, Weighted, group_numbers, method
from grao.settings import NonNegativeFloat
from grao.types import PerAnswer

if TYPE_CHECKING:
    from torch import Tensor


@method
class GRAOAuto(Method):
    """An experiment: imitates where every sample of a group loses, else explores. Not in the paper, not recommended."""

    name: Literal["grao-auto"] = "grao-auto"
    """The method."""
    beta: NonNegativeFloat = 0.02
    """Weight of the reference of a group that loses throughout."""
    rule: Literal["group", "step"] = "group"
    """`step`: that weight times the share of such groups in the step."""

    def weigh(self, groups: StepGroups) -> Weighted:
        """Rewards -> advantages over samples -> weights."""
        rewards = groups.rewards
        scored = rewards.isfinite()
        count = scored.sum(dim=1)
        samples = core.group_advantages(rewards, rewards.new_zeros(len(rewards)), "samples").completions
        lost = (count > 1) & (~scored | (rewards < 0)).all(dim=1)
        fade = lost.double().mean() if self.rule == "step" else 1.0
        reference = self.beta * count.sqrt() * lost * fade
        weights = PerAnswer.of(samples / count.clamp(min=1)[:, None], reference)
        return Weighted(weights, core.Advantages(samples, torch.where(lost, count.sqrt(), 0.0).to(samples)))

    def report(self, weighted: Weighted, loglik: PerAnswer) -> dict[str, Tensor]:
        """How many groups lost, and what the reference counts."""
        return {
            **group_numbers(weighted.advantages),
            "groups/lost": (weighted.advantages.reference > 0).double(),
            "reference_weight/mean": weighted.weights.reference,
            "reference/loglik": loglik.reference,
        }
