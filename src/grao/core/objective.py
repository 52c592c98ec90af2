"""The objective (paper, eq. 3) and the one fact everything rests on: it is a weighted likelihood.

With J(x) the mean log-likelihood per token of a response x::

    J_GRAO = 1/G * sum_i [ alpha * A_i * J(o_i) + beta * A_y * J(y) + lambda * A_i * (J(o_i) - J(y)) ]
           = sum_i w_i * J(o_i)  +  w_y * J(y)

    w_i = (alpha + lambda) * A_i / G        w_y = beta * A_y - lambda * mean_i(A_i)

alpha is 1 in the paper. Advantages are constants for the gradient; there is no ratio, no clipping, no KL.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grao.core.advantages import Advantages

Sign = Literal["signed", "positive"]


@dataclass(frozen=True)
class SequenceWeights:
    """What each sequence's mean log-likelihood is multiplied with; always finite, 0 = need not be forwarded."""

    completions: Tensor
    """(B, G)."""
    reference: Tensor
    """(B,)."""


@dataclass(frozen=True)
class ObjectiveTerms:
    """The three terms of eq. 3, one number per group, (B,) each. Their sum is the objective of the group."""

    exploration: Tensor
    imitation: Tensor
    regulariser: Tensor


def sequence_weights(
    advantages: Advantages,
    beta: float = 0.5,
    lambda_: float = 0.6,
    exploration: float = 1.0,
    sign: Sign = "positive",
) -> SequenceWeights:
    """The closed form of eq. 3: one weight per sequence.

    Args:
        advantages: of the G samples and the reference; NaN members get weight 0 and do not count in G.
        beta: weight of imitation.
        lambda_: weight of the alignment regulariser.
        exploration: weight of exploration (alpha), 1 in the paper.
        sign: `positive` keeps the reference's total weight at 0 or above, so that it fades out once the samples beat
            it (our default, argued in docs/method.md); `signed` is eq. 3 as printed, which pushes it down then.

    Example, all four samples lost, scope joint: A_i = -0.5, A_y = 2, hence
    w_i = 1.6 * -0.5 / 4 = -0.2 and w_y = 0.5 * 2 - 0.6 * -0.5 = 1.3.
    """
    samples, reference = advantages.completions.nan_to_num(0.0), advantages.reference.nan_to_num(0.0)
    scored = _scored(advantages)
    weights = (exploration + lambda_) * samples / scored[:, None]
    reference_weights = beta * reference - lambda_ * samples.sum(dim=1) / scored
    kept = _reference_kept(reference_weights, sign) & ~advantages.reference.isnan()
    return SequenceWeights(completions=weights, reference=reference_weights * kept)


def objective_terms(
    advantages: Advantages,
    completion_loglik: Tensor,
    reference_loglik: Tensor,
    beta: float = 0.5,
    lambda_: float = 0.6,
    exploration: float = 1.0,
    sign: Sign = "positive",
) -> ObjectiveTerms:
    """The three terms of eq. 3 apart, for logging; they add up to the weighted likelihood in both sign policies.

    Args:
        advantages: as for `sequence_weights`, and so are the coefficients.
        completion_loglik: J(o_i), (B, G), nats per token.
        reference_loglik: J(y), (B,), nats per token.
    """
    samples, reference = advantages.completions.nan_to_num(0.0), advantages.reference.nan_to_num(0.0)
    scored = _scored(advantages)
    mean = samples.sum(dim=1) / scored
    kept = _reference_kept(beta * reference - lambda_ * mean, sign) & ~advantages.reference.isnan()
    explored = (samples * completion_loglik).sum(dim=1) / scored
    return ObjectiveTerms(
        exploration=exploration * explored,
        imitation=beta * reference * reference_loglik * kept,
        regulariser=lambda_ * (explored - mean * reference_loglik * kept),
    )


def weighted_likelihood_loss(weights: Tensor, loglik: Tensor, prompts: int) -> Tensor:
    """-1/B * sum_s w_s * J_s: what gradient descent minimises. Linear, hence the same in any order or batching.

    Args:
        weights: (S,), constants.
        loglik: (S,), mean log-likelihood per token, with gradient.
        prompts: B, all prompts of the step, dropped ones included, so that the step does not grow when
            rewards are missing.
    """
    return -(weights.detach() * loglik).sum() / prompts


def _scored(advantages: Advantages) -> Tensor:
    """(B,), number of samples that have an advantage, at least 1."""
    count: Tensor = (~advantages.completions.isnan()).sum(dim=1).clamp(min=1)
    return count


def _reference_kept(reference_weights: Tensor, sign: Sign) -> Tensor:
    """(B,) bool: where the sign policy lets the reference take part."""
    if sign == "positive":
        return reference_weights > 0
    if sign == "signed":
        return torch.ones_like(reference_weights, dtype=torch.bool)
    raise ValueError(f"sign must be 'signed' or 'positive', got {sign!r}")
