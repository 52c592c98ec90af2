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

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grao.core import Advantages, group_advantages
from grao.methods.method import Groups, Needs, Weighted, columns


@dataclass(frozen=True)
class GRAOAuto:
    """A weighted likelihood; the only coefficient says how much a lost group's reference counts."""

    beta: float = 0.02
    rule: Literal["group", "step"] = "group"

    needs = Needs()
    loss = credit = None

    def weigh(self, groups: Groups) -> Weighted:
        """Rewards -> advantages over samples -> weights."""
        rewards = groups.rewards
        scored = rewards.isfinite()
        count = scored.sum(dim=1)
        samples = group_advantages(rewards, rewards.new_zeros(len(rewards)), "samples").completions
        lost = (count > 1) & (~scored | (rewards < 0)).all(dim=1)
        fade = lost.double().mean() if self.rule == "step" else 1.0
        reference = self.beta * count.sqrt() * lost * fade
        weights = columns(samples / count.clamp(min=1)[:, None], reference)
        return Weighted(weights, Advantages(samples, torch.where(lost, count.sqrt(), 0.0).to(samples)))

    def report(self, weighted: Weighted, completion_loglik: Tensor, reference_loglik: Tensor) -> dict[str, Tensor]:
        """How many groups lost, and what the reference counts."""
        advantages = weighted.advantages
        return {
            "advantage/abs": advantages.completions.abs().nanmean(dim=1),
            "groups/lost": (advantages.reference > 0).double(),
            "groups/no_signal": advantages.no_signal.double(),
            "groups/dropped": advantages.dropped.double(),
            "reference_weight/mean": weighted.weights[:, -2],
            "reference/loglik": reference_loglik,
        }
