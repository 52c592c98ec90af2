"""How far sampler and trainer are apart on the tokens that were drawn, and what an update can do about it.

The two are the same model, but on other kernels, in another precision, or, with `rollout.ahead`, one step older. Every
step measures the difference from log-probabilities that are there anyway; a truncated importance weight takes it out of
the gradients of samples (Ionides 2008; Yao et al. 2025 for language models).
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from grao.engine.interface import sequence_means
from grao.errors import InputError
from grao.methods.base import TokenView, kl_estimate
from grao.rollouts.base import Generator, OwnPrecision
from grao.types import Answer, Batch, Role

_SINGLE, _HALF = 1e-3, 0.1
"""Nats per token of a mean gap that rounding explains, in single and in half precision."""
_FAR = 50.0
"""Nats beyond which it does not matter how far: ratios stay finite."""


@dataclass(frozen=True)
class SamplerGap:
    """Of S answers; NaN of what was not sampled, or whose sampler did not say."""

    absolute: Tensor
    """(S,), mean |log pi - log pi of the sampler| per token, nats."""
    kl: Tensor
    """(S,), estimate of KL(sampler | trainer) per token, nats: unbiased at temperature 1."""
    ratio: Tensor
    """(S,), the largest factor by which a token is likelier for one of the two."""

    @staticmethod
    def of(logps: Tensor, sampler: Tensor, lengths: Tensor) -> Tensor:
        """The three as rows, (3, S), from the log-probabilities (N,) of both and the lengths (S,) of the answers."""
        apart = (logps - sampler).abs()
        near = logps.clamp(sampler - _FAR, sampler + _FAR)
        largest = torch.segment_reduce(apart.clamp(max=_FAR), "max", lengths=lengths, unsafe=True)
        kl = kl_estimate(sampler, near)
        return torch.stack([sequence_means(apart, lengths), sequence_means(kl, lengths), largest.exp()])


def sampler_logps(answers: Sequence[Answer], dtype: torch.dtype) -> Tensor:
    """(N,), log-probability of each token under the model that sampled it; NaN of what was not sampled."""
    values = [logp for answer in answers for logp in answer.logps or [torch.nan] * len(answer.ids)]
    return torch.tensor(values, dtype=dtype)


def tolerated_gap(policy: nn.Module, accelerator: Accelerator, generator: Generator) -> float:
    """Nats per token that rounding explains; infinite where dropout makes the trainer another model."""
    if any(map(_drops_out, policy.modules())):
        return math.inf
    kinds = [next(policy.parameters()).dtype, *([generator.dtype] if isinstance(generator, OwnPrecision) else [])]
    half = accelerator.mixed_precision in ("bf16", "fp16") or any(kind.itemsize < 4 for kind in kinds)
    return _HALF if half else _SINGLE


def _drops_out(module: nn.Module) -> bool:
    share = module.p if isinstance(module, nn.Dropout) else getattr(module, "attention_dropout", 0.0)
    return isinstance(share, float) and share > 0


class GapWarning:
    """Warns once of a mean gap that rounding does not explain.

    Args:
        tolerated: nats per token.
    """

    def __init__(self, tolerated: float) -> None:
        self.tolerated = tolerated

    def look(self, step: int, gap: float) -> None:
        """At step `step` the mean gap was this, in nats per token; NaN where nothing was measured."""
        if gap > self.tolerated:
            self.tolerated = math.inf
            warnings.warn(
                f"step {step}: sampler and trainer differ by {gap:.2g} nats per token, more than rounding explains; "
                "look at sampler/gap, and at training.importance_cap in docs/method.md",
                stacklevel=3,
            )


Ratio = Callable[[TokenView, Tensor], Tensor]
"""Differences of log-probabilities (N,), trainer minus sampler -> the log of each token's ratio, (N,)."""

RATIOS: dict[str, Ratio] = {
    "tokens": lambda view, apart: apart,
    "sequences": lambda view, apart: view.per_token(view.total(apart)),
}
"""`training.importance_of` -> what has a ratio of its own."""


IMPORTANCE = ("importance/mean", "importance/capped")
"""What is logged of the weights: their mean over a sample's tokens, and the share that was cut."""


@dataclass(frozen=True)
class Importance:
    """Truncated importance weights: min(pi / pi of the sampler, cap) on the gradients of samples, 1 elsewhere.

    pi is the policy before the update on these samples. The weights are constants for the gradient.
    """

    cap: float
    ratio: Ratio

    def check(self, batch: Batch) -> None:
        """Raises: InputError if a sample came without the sampler's log-probabilities."""
        if any(answer.role is Role.SAMPLE and answer.logps is None for answer in batch.answers):
            raise InputError("training.importance_cap: rollout.engine gives no log-probabilities of its samples")

    def weights(self, view: TokenView, sampler: Tensor) -> Tensor:
        """(N,), from the sampler's log-probabilities, (N,)."""
        apart = (view.old - sampler).masked_fill(~view.has_role(Role.SAMPLE), 0.0)
        return self.ratio(view, apart).exp().clamp(max=self.cap)

    def scaled(self, logps: Tensor, weights: Tensor) -> Tensor:
        """(N,), the same values, with gradients multiplied by the weights: so any method's loss takes them in."""
        constant = logps.detach()
        return constant + weights * (logps - constant)
