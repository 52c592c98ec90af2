"""The gap between sampling engine and trainer on the sampled tokens, and importance weights that correct for it.

Both run the same model, but with different kernels, in different precision or, with `rollout.ahead`, one step apart.
Every step measures the gap from log-probabilities that are computed anyway. Truncated importance weights correct the
gradients of samples (Ionides 2008; Yao et al. 2025 for language models).
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
"""Mean gaps that rounding explains, in nats per token: in float32 and in half precision."""
_FAR = 50.0
"""Differences are clipped to this many nats, so that ratios stay finite."""


@dataclass(frozen=True)
class SamplerGap:
    """Gap on S answers; NaN for answers that were not sampled or came without the sampler's log-probabilities."""

    absolute: Tensor
    """(S,), mean |log pi - log pi of the sampler| per token, nats."""
    kl: Tensor
    """(S,), estimate of KL(sampler | trainer) per token, nats; unbiased at temperature 1."""
    ratio: Tensor
    """(S,), largest ratio of the two probabilities of a token, at least 1."""

    @staticmethod
    def of(logps: Tensor, sampler: Tensor, lengths: Tensor) -> Tensor:
        """Return the three quantities as rows of (3, S).

        Args:
            logps: (N,), the trainer's log-probabilities.
            sampler: (N,), the sampler's log-probabilities.
            lengths: (S,), tokens of each answer; their sum is N.
        """
        differences = (logps - sampler).abs()
        near = logps.clamp(sampler - _FAR, sampler + _FAR)
        largest = torch.segment_reduce(differences.clamp(max=_FAR), "max", lengths=lengths, unsafe=True)
        kl = kl_estimate(sampler, near)
        return torch.stack([sequence_means(differences, lengths), sequence_means(kl, lengths), largest.exp()])


def sampler_logps(answers: Sequence[Answer], dtype: torch.dtype) -> Tensor:
    """Return (N,) log-probabilities under the sampling engine; NaN for tokens that were not sampled."""
    values = [logp for answer in answers for logp in answer.logps or [torch.nan] * len(answer.ids)]
    return torch.tensor(values, dtype=dtype)


def tolerated_gap(policy: nn.Module, accelerator: Accelerator, generator: Generator) -> float:
    """Return the mean gap that rounding explains, in nats per token; infinite if the policy has dropout."""
    if any(map(_drops_out, policy.modules())):
        return math.inf
    kinds = [next(policy.parameters()).dtype, *([generator.dtype] if isinstance(generator, OwnPrecision) else [])]
    half = accelerator.mixed_precision in ("bf16", "fp16") or any(kind.itemsize < 4 for kind in kinds)
    return _HALF if half else _SINGLE


def _drops_out(module: nn.Module) -> bool:
    share = module.p if isinstance(module, nn.Dropout) else getattr(module, "attention_dropout", 0.0)
    return isinstance(share, float) and share > 0


class GapWarning:
    """Warn once of a mean gap that rounding does not explain.

    Args:
        tolerated: largest gap without a warning, nats per token.
    """

    def __init__(self, tolerated: float) -> None:
        self.tolerated = tolerated

    def check(self, step: int, gap: float) -> None:
        """Warn once if the mean gap of a step (nats per token, NaN if not measured) exceeds the tolerated one."""
        if gap > self.tolerated:
            self.tolerated = math.inf
            warnings.warn(
                f"step {step}: sampler and trainer differ by {gap:.2g} nats per token, more than rounding explains; "
                "watch sampler/gap, and see training.importance_cap in docs/method.md",
                stacklevel=3,
            )


Ratio = Callable[[TokenView, Tensor], Tensor]
"""Maps (N,) differences of log-probabilities, trainer minus sampler, to the (N,) log-ratios of the tokens."""

RATIOS: dict[str, Ratio] = {
    "tokens": lambda view, differences: differences,
    "sequences": lambda view, differences: view.per_token(view.total(differences)),
}
"""`training.importance_of` -> its ratio: one per token, or one per sequence."""


IMPORTANCE = ("importance/mean", "importance/capped")
"""Logged metrics: mean weight over a sample's tokens, and share of tokens whose weight was truncated."""


@dataclass(frozen=True)
class Importance:
    """Truncated importance weights on the gradients of samples: min(pi / pi_sampler, cap); 1 for other answers.

    pi is the policy before the update on these samples. Gradients do not flow through the weights.

    Args:
        cap: largest weight.
        ratio: one of `RATIOS`.
    """

    cap: float
    ratio: Ratio

    def check(self, batch: Batch) -> None:
        """Check that samples carry the sampler's log-probabilities.

        Args:
            batch: answers of a micro-batch.

        Raises:
            InputError: if a sample has none.
        """
        if any(answer.role is Role.SAMPLE and answer.logps is None for answer in batch.answers):
            raise InputError("training.importance_cap: rollout.engine returns no log-probabilities of its samples")

    def weights(self, view: TokenView, sampler: Tensor) -> Tensor:
        """Return the (N,) weights, given the sampler's (N,) log-probabilities."""
        differences = (view.old - sampler).masked_fill(~view.has_role(Role.SAMPLE), 0.0)
        return self.ratio(view, differences).exp().clamp(max=self.cap)

    def scaled(self, logps: Tensor, weights: Tensor) -> Tensor:
        """Return (N,) log-probabilities of the same value whose gradients are multiplied by the weights."""
        constant = logps.detach()
        return constant + weights * (logps - constant)
