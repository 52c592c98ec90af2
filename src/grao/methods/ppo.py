"""PPO (Schulman et al., arXiv 1707.06347) as in RLHF (Ouyang et al., arXiv 2203.02155): a critic gives every token an
advantage, the KL divergence to the start is part of the reward, ratio and value are clipped.

One reward at the end of a sample, less `kl` times the log-ratio to the start at each of its tokens. The critic is a
linear head on the policy's last hidden state, trained with it. Left out: minibatches; each of the `updates` goes over
the whole batch of samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, Self

from grao.lazy import core, torch
from grao.methods import base
from grao.methods.grpo import clipped_surrogate
from grao.settings import NonNegativeFloat, PositiveFloat, PositiveInt, Share
from grao.types import PerAnswer

if TYPE_CHECKING:
    from torch import Tensor


@base.method
class PPO(base.Method):
    """Samples against a critic's expectation (arXiv 1707.06347, 2203.02155)."""

    name: Literal["ppo"] = "ppo"
    """The method."""
    clip: PositiveFloat = 0.2
    """Half-width of the interval in which a probability ratio counts."""
    value_clip: PositiveFloat = 0.2
    """How far a value may move in one batch of samples."""
    value: NonNegativeFloat = 0.1
    """Weight of the value loss."""
    kl: NonNegativeFloat = 0.05
    """Penalty for each nat of distance from the model before training."""
    kl_target: PositiveFloat | None = None
    """KL divergence of a sample, in nats, that the penalty is steered to; by default it is fixed."""
    discount: Share = 1.0
    """gamma."""
    trace: Share = 0.95
    """lambda of generalised advantage estimation."""
    updates: PositiveInt = 4
    """Optimiser steps on one batch of samples."""

    @property
    def needs(self) -> base.Needs:
        """Everything as it was when the samples were drawn."""
        return base.Needs(references=False, old=True, frozen=True, critic=True, updates=self.updates)

    def weigh(self, groups: base.StepGroups) -> base.Weighted:
        """The signal of a sample is its reward; advantages come from the critic, token by token (`gae`)."""
        return base.Weighted(PerAnswer.of(base.scored_share(groups.rewards)), signals=PerAnswer.of(groups.rewards))

    def credit(self, before: base.Before, signals: Tensor, lengths: Sequence[int]) -> base.Before:
        """Advantages by the critic, of rewards that are less the KL penalty."""
        old, values, frozen = base.known(before.old), base.known(before.values), base.known(before.frozen)
        near = core.rounding(torch.maximum(old.abs(), frozen.abs()))
        penalties = self.kl * (old - frozen).masked_fill((old - frozen).abs() <= near, 0.0)
        advantages = gae(signals.to(old), penalties, values, lengths, self.discount, self.trace)
        return replace(before, advantages=advantages, returns=advantages + values)

    def loss(self, tokens: base.TokenView) -> base.TokenLoss:
        """Clipped surrogate plus clipped value loss, means over each sample's tokens."""
        before, values = tokens.before, base.known(tokens.values)
        surrogate, clipped = clipped_surrogate(tokens.log_ratio, base.known(before.advantages), self.clip)
        first, returns = base.known(before.values), base.known(before.returns)
        near = first + (values - first).clamp(-self.value_clip, self.value_clip)
        errors = torch.maximum((values - returns).square(), (near - returns).square()) / 2
        value_loss = tokens.mean(errors)
        return base.TokenLoss(
            tokens.mean(surrogate) + self.value * value_loss,
            {"ratio/clipped": tokens.mean(clipped), "critic/loss": value_loss.detach()},
        )

    def start(self) -> base.State:
        """The penalty, where it is steered."""
        return {"kl": self.kl} if self.kl_target else {}

    def at(self, state: base.State) -> Self:
        """With the penalty of this state."""
        return replace(self, kl=state.get("kl", self.kl))

    def adapt(
        self,
        state: base.State,
        before: base.Before,
        lengths: Sequence[int],
        total: Callable[[Tensor], list[float]],
        logged: Mapping[str, float],
    ) -> tuple[base.State, dict[str, float]]:
        """Steers the penalty towards the target, by the KL divergence of a sample in this step."""
        if self.kl_target is None:
            return state, {}
        old, frozen = base.known(before.old), base.known(before.frozen)
        divergence, samples = total(torch.stack([(old - frozen).sum(), old.new_tensor(len(lengths))]))
        used = state["kl"]
        if math.isnan(divergence):
            return state, {}
        steered_to = steered(used, divergence / max(samples, 1), self.kl_target)
        return {"kl": steered_to}, {"kl_penalty/coefficient": used, "kl_penalty/next": steered_to}


def gae(
    rewards: Tensor, penalties: Tensor, values: Tensor, lengths: Sequence[int], discount: float, trace: float
) -> Tensor:
    """Generalised advantage estimation (Schulman et al., arXiv 1506.02438, eq. 16) of S samples.

    delta_t = r_t + discount * V_{t+1} - V_t,  A_t = delta_t + discount * trace * A_{t+1}; V is 0 behind the end.

    Args:
        rewards: (S,), each paid at its sample's last token.
        penalties: (N,), taken off at every token.
        values: (N,), V of the state before each token.
        lengths: tokens of each sample, N in all.
        discount, trace: gamma and lambda.

    Returns:
        (N,).
    """
    ends = [end - 1 for end in accumulate(lengths)]
    last = torch.tensor(ends, dtype=torch.long).to(values.device, non_blocking=True)
    paid = (-penalties).index_add(0, last, rewards)
    behind = torch.cat([values[1:], values.new_zeros(1)]) if ends else values
    delta = (paid + discount * behind.index_fill(0, last, 0.0) - values).tolist()  # to the host and back once for all
    closing = set(ends)
    for t in range(len(delta) - 2, -1, -1):
        if t not in closing:
            delta[t] += discount * trace * delta[t + 1]
    return torch.tensor(delta, dtype=values.dtype).to(values.device, non_blocking=True)


def steered(kl: float, seen: float, target: float) -> float:
    """The next KL coefficient: a tenth of the relative error, at most 0.2 of it (Ziegler et al., arXiv 1909.08593)."""
    return kl * (1 + 0.1 * min(max(seen / target - 1, -0.2), 0.2))
