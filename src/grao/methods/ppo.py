"""PPO (Schulman et al., arXiv 1707.06347) for RLHF (Ouyang et al., arXiv 2203.02155).

A sample is rewarded at its last token; every token is penalised by `kl` times its log-ratio to the initial policy. A
critic yields token-level advantages. Ratios and values are clipped. The critic is a linear head on the policy's last
hidden state and is trained with the policy. Not implemented: minibatches; each of the `updates` uses the whole batch.
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
    """Token-level advantages from a critic, clipped ratios (arXiv 1707.06347, 2203.02155)."""

    name: Literal["ppo"] = "ppo"
    """The method."""
    clip: PositiveFloat = 0.2
    """How far the probability ratio may move from 1 before it is clipped."""
    value_clip: PositiveFloat = 0.2
    """How far a value may move from its old value before it is clipped."""
    value: NonNegativeFloat = 0.1
    """Weight of the value loss."""
    kl: NonNegativeFloat = 0.05
    """Penalty per nat of log-ratio to the initial policy."""
    kl_target: PositiveFloat | None = None
    """Adapt the penalty so that the KL divergence per sample is this many nats; by default it stays fixed."""
    discount: Share = 1.0
    """Discount factor gamma."""
    trace: Share = 0.95
    """lambda of generalised advantage estimation (GAE)."""
    updates: PositiveInt = 4
    """Optimiser steps per batch of samples."""

    @property
    def needs(self) -> base.Needs:
        """Old and frozen log-probabilities, and a critic."""
        return base.Needs(references=False, old=True, frozen=True, critic=True, updates=self.updates)

    def weigh(self, groups: base.StepGroups) -> base.Weighted:
        """Weight each scored sample by 1/G; its signal is its reward, from which `credit` computes advantages."""
        return base.Weighted(PerAnswer.of(base.scored_share(groups.rewards)), signals=PerAnswer.of(groups.rewards))

    def credit(self, before: base.Before, signals: Tensor, lengths: Sequence[int]) -> base.Before:
        """Add advantages (GAE) and returns; the KL penalty is part of the reward."""
        old, values, frozen = base.required(before.old), base.required(before.values), base.required(before.frozen)
        negligible = core.rounding(torch.maximum(old.abs(), frozen.abs()))
        penalties = self.kl * (old - frozen).masked_fill((old - frozen).abs() <= negligible, 0.0)
        advantages = gae(signals.to(old), penalties, values, lengths, self.discount, self.trace)
        return replace(before, advantages=advantages, returns=advantages + values)

    def loss(self, tokens: base.TokenView) -> base.TokenLoss:
        """Clipped surrogate plus clipped value loss, averaged over each sample's tokens."""
        before, values = tokens.before, base.required(tokens.values)
        surrogate, clipped = clipped_surrogate(tokens.log_ratio, base.required(before.advantages), self.clip)
        old_values, returns = base.required(before.values), base.required(before.returns)
        clipped_values = old_values + (values - old_values).clamp(-self.value_clip, self.value_clip)
        errors = torch.maximum((values - returns).square(), (clipped_values - returns).square()) / 2
        value_loss = tokens.mean(errors)
        return base.TokenLoss(
            tokens.mean(surrogate) + self.value * value_loss,
            {"ratio/clipped": tokens.mean(clipped), "critic/loss": value_loss.detach()},
        )

    def start(self) -> base.State:
        """Return the coefficient of the KL penalty if it is adaptive, else nothing."""
        return {"kl": self.kl} if self.kl_target else {}

    def at(self, state: base.State) -> Self:
        """Return the method with the penalty of this state."""
        return replace(self, kl=state.get("kl", self.kl))

    def adapt(
        self,
        state: base.State,
        before: base.Before,
        lengths: Sequence[int],
        total: Callable[[Tensor], list[float]],
        logged: Mapping[str, float],
    ) -> tuple[base.State, dict[str, float]]:
        """Adapt the penalty to the KL divergence per sample in this step."""
        if self.kl_target is None:
            return state, {}
        old, frozen = base.required(before.old), base.required(before.frozen)
        divergence, samples = total(torch.stack([(old - frozen).sum(), old.new_tensor(len(lengths))]))
        coefficient = state["kl"]
        if not samples or math.isnan(divergence):
            return state, {}
        next_coefficient = adapted_kl(coefficient, divergence / samples, self.kl_target)
        return {"kl": next_coefficient}, {"kl_penalty/coefficient": coefficient, "kl_penalty/next": next_coefficient}


def gae(
    rewards: Tensor, penalties: Tensor, values: Tensor, lengths: Sequence[int], discount: float, trace: float
) -> Tensor:
    """Compute the generalised advantage estimates (Schulman et al., arXiv 1506.02438, eq. 16) of S samples.

    delta_t = r_t + discount * V_{t+1} - V_t,  A_t = delta_t + discount * trace * A_{t+1}; V is 0 after the last token.

    Args:
        rewards: (S,), received at the last token of each sample.
        penalties: (N,), subtracted from the reward at each token.
        values: (N,), V of the state in which each token was chosen.
        lengths: tokens of each sample, N in total.
        discount: gamma.
        trace: lambda.

    Returns:
        (N,), advantage of each token.
    """
    ends = [end - 1 for end in accumulate(lengths)]
    last = torch.tensor(ends, dtype=torch.long).to(values.device, non_blocking=True)
    token_rewards = (-penalties).index_add(0, last, rewards)
    next_values = torch.cat([values[1:], values.new_zeros(1)]) if ends else values
    delta = (token_rewards + discount * next_values.index_fill(0, last, 0.0) - values).tolist()  # a single transfer
    final_tokens = set(ends)
    for t in range(len(delta) - 2, -1, -1):
        if t not in final_tokens:
            delta[t] += discount * trace * delta[t + 1]
    return torch.tensor(delta, dtype=values.dtype).to(values.device, non_blocking=True)


def adapted_kl(coefficient: float, divergence: float, target: float) -> float:
    """Return the next KL coefficient, by proportional control (Ziegler et al., arXiv 1909.08593).

    Args:
        coefficient: the current one.
        divergence: measured KL divergence per sample, in nats.
        target: desired KL divergence per sample, in nats.

    Returns:
        coefficient * (1 + 0.1 * error), with the relative error clipped to +-0.2.
    """
    return coefficient * (1 + 0.1 * min(max(divergence / target - 1, -0.2), 0.2))
