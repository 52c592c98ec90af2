"""The objective (paper, eq. 3), rearranged into a weighted likelihood. The rest of the package builds on this form.

With J(x) the mean log-likelihood per token of a response x::

    J_GRAO = 1/G * sum_i [ alpha * A_i * J(o_i) + beta * A_y * J(y) + lambda * A_i * (J(o_i) - J(y)) ]
           = sum_i w_i * J(o_i)  +  w_y * J(y)

    w_i = (alpha + lambda) * A_i / G        w_y = beta * A_y - lambda * mean_i(A_i)

The objective is maximised. alpha is 1 in the paper. Advantages are constants for the gradient; there is no importance
ratio, no clipping and no KL term.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grao.core.advantages import Advantages

Sign = Literal["signed", "positive"]


@dataclass(frozen=True)
class SequenceWeights:
    """Factors of the mean log-likelihoods J, always finite. A sequence with weight 0 needs no forward pass."""

    completions: Tensor
    """(B, G), w_i."""
    reference: Tensor
    """(B,), w_y."""


@dataclass(frozen=True)
class ObjectiveTerms:
    """The three terms of eq. 3, (B,) each. Their sum is the objective of the group."""

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
    """Return the sequence weights w_i and w_y of eq. 3 in closed form.

    Args:
        advantages: those of the G samples and the reference. NaN members get weight 0 and do not count in G.
        beta: coefficient of the imitation term.
        lambda_: coefficient of the alignment regulariser.
        exploration: coefficient of the exploration term (alpha), 1 in the paper.
        sign: `signed` is eq. 3 as printed: once the samples beat the reference, w_y is negative and pushes the
            reference down. `positive`, our default, sets a negative w_y to 0 (reasons in docs/method.md).

    Returns:
        Weights (B, G) and (B,).

    Raises:
        ValueError: if `sign` is unknown.

    Example: all four samples lost, scope `joint`, so A_i = -0.5 and A_y = 2. Then
    w_i = 1.6 * -0.5 / 4 = -0.2 and w_y = 0.5 * 2 - 0.6 * -0.5 = 1.3.
    """
    samples, reference = advantages.completions.nan_to_num(0.0), advantages.reference.nan_to_num(0.0)
    scored = _scored(advantages)
    weights = (exploration + lambda_) * samples / scored[:, None]
    reference_weights = beta * reference - lambda_ * samples.sum(dim=1) / scored
    active = _reference_active(reference_weights, sign) & ~advantages.reference.isnan()
    return SequenceWeights(completions=weights, reference=reference_weights * active)


def objective_terms(
    advantages: Advantages,
    completion_loglik: Tensor,
    reference_loglik: Tensor,
    beta: float = 0.5,
    lambda_: float = 0.6,
    exploration: float = 1.0,
    sign: Sign = "positive",
) -> ObjectiveTerms:
    """Return the three terms of eq. 3, for logging. For either `sign` they add up to the weighted likelihood.

    Args:
        advantages: as in `sequence_weights`.
        completion_loglik: J(o_i), (B, G), nats per token.
        reference_loglik: J(y), (B,), nats per token.
        beta: coefficient of the imitation term.
        lambda_: coefficient of the alignment regulariser.
        exploration: coefficient of the exploration term (alpha).
        sign: as in `sequence_weights`.

    Returns:
        Exploration, imitation and regulariser, (B,) each.

    Raises:
        ValueError: if `sign` is unknown.
    """
    samples, reference = advantages.completions.nan_to_num(0.0), advantages.reference.nan_to_num(0.0)
    scored = _scored(advantages)
    mean = samples.sum(dim=1) / scored
    active = _reference_active(beta * reference - lambda_ * mean, sign) & ~advantages.reference.isnan()
    sample_term = (samples * completion_loglik).sum(dim=1) / scored
    return ObjectiveTerms(
        exploration=exploration * sample_term,
        imitation=beta * reference * reference_loglik * active,
        regulariser=lambda_ * (sample_term - mean * reference_loglik * active),
    )


def weighted_likelihood_loss(weights: Tensor, loglik: Tensor, prompts: int) -> Tensor:
    """Return the loss to minimise: -1/B * sum_s w_s * J_s.

    It is linear in J, so any order and batching of the sequences gives the same gradient.

    Args:
        weights: (S,), constants.
        loglik: J, (S,), mean log-likelihood in nats per token, with gradient.
        prompts: B, the number of prompts in the step, including dropped ones: missing rewards must not enlarge the
            step.

    Returns:
        Scalar, with gradient.
    """
    return -(weights.detach() * loglik).sum() / prompts


def _scored(advantages: Advantages) -> Tensor:
    """Return (B,), the number of samples with an advantage, at least 1."""
    count: Tensor = (~advantages.completions.isnan()).sum(dim=1).clamp(min=1)
    return count


def _reference_active(reference_weights: Tensor, sign: Sign) -> Tensor:
    """Return (B,) bool: where `sign` keeps the weight of the reference."""
    if sign == "positive":
        return reference_weights > 0
    if sign == "signed":
        return torch.ones_like(reference_weights, dtype=torch.bool)
    raise ValueError(f"sign must be 'signed' or 'positive', got {sign!r}")
