"""PPO (Schulman et al., arXiv 1707.06347) as in RLHF (Ouyang et al., arXiv 2203.02155): a critic gives every token an
advantage, the KL divergence to the start is part of the reward, ratio and value are clipped.

The critic is a linear head on the policy's last hidden state, trained with it. Left out: minibatches; each of the
`updates` goes over the whole batch of samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grao.methods.grpo import clipped_surrogate
from grao.methods.method import Groups, Needs, TokenLoss, Weighted, columns, scored_share
from grao.methods.tokens import Before, TokenView, known


@dataclass(frozen=True)
class PPO:
    """One reward at the end of a sample, less `kl` times the log-ratio to the start at each of its tokens."""

    clip: float = 0.2
    value_clip: float = 0.2
    value: float = 0.1
    """Weight of the value loss."""
    kl: float = 0.05
    """Coefficient of the KL penalty; the first one where a target is given."""
    kl_target: float | None = None
    """KL divergence of a sample in nats that the coefficient is steered to; None keeps it fixed."""
    discount: float = 1.0
    trace: float = 0.95
    """lambda of generalised advantage estimation."""
    updates: int = 4
    """Optimiser steps on one batch of samples."""

    @property
    def needs(self) -> Needs:
        """Everything as it was when the samples were drawn."""
        return Needs(old=True, frozen=True, critic=True, updates=self.updates)

    def weigh(self, groups: Groups) -> Weighted:
        """The weight of a sample is its reward; advantages come from the critic, token by token (`gae`)."""
        return Weighted(columns(groups.rewards), shares=columns(scored_share(groups.rewards)))

    def credit(self, before: Before, weights: Tensor, lengths: Sequence[int]) -> Before:
        """Advantages by the critic, of rewards that are less the KL penalty."""
        old, values = known(before.old), known(before.values)
        penalties = self.kl * (old - known(before.frozen))
        advantages = gae(weights.to(old), penalties, values, lengths, self.discount, self.trace)
        return replace(before, advantages=advantages, returns=advantages + values)

    def loss(self, tokens: TokenView) -> TokenLoss:
        """Clipped surrogate plus clipped value loss, means over each sample's tokens."""
        before, values = tokens.before, known(tokens.values)
        surrogate, clipped = clipped_surrogate(tokens, known(before.advantages), self.clip)
        first, returns = known(before.values), known(before.returns)
        near = first + (values - first).clamp(-self.value_clip, self.value_clip)
        errors = torch.maximum((values - returns).square(), (near - returns).square()) / 2
        value_loss = tokens.mean(errors)
        return TokenLoss(
            tokens.mean(surrogate) + self.value * value_loss,
            {"ratio/clipped": tokens.mean(clipped), "critic/loss": value_loss.detach()},
        )

    def report(self, weighted: Weighted, completion_loglik: Tensor, reference_loglik: Tensor) -> dict[str, Tensor]:
        """Nothing of a whole group: what there is to know stands beside the loss."""
        return {}


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
    parts = []
    for reward, penalty, value in zip(
        rewards, penalties.split(list(lengths)), values.split(list(lengths)), strict=True
    ):
        paid = -penalty
        paid[-1] += reward
        delta = (paid + discount * torch.cat([value[1:], value.new_zeros(1)]) - value).tolist()
        for place in range(len(delta) - 2, -1, -1):
            delta[place] += discount * trace * delta[place + 1]
        parts.append(torch.tensor(delta, dtype=values.dtype, device=values.device))
    return torch.cat(parts) if parts else values.new_zeros(0)


def steered(kl: float, seen: float, target: float) -> float:
    """The next KL coefficient: a tenth of the relative error, at most 0.2 of it (Ziegler et al., arXiv 1909.08593)."""
    return kl * (1 + 0.1 * min(max(seen / target - 1, -0.2), 0.2))
