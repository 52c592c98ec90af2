"""What the trainer asks of a method: rewards in, weights out. Everything else is the engine's."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from grao.core import Advantages, SequenceWeights


@dataclass(frozen=True)
class Weighted:
    """B groups with what each of their sequences is multiplied with."""

    advantages: Advantages
    weights: SequenceWeights


class Method(Protocol):
    """An alignment method whose update is a weighted likelihood of samples and references."""

    def weigh(self, rewards: Tensor) -> Weighted:
        """R(o, y) of B groups, (B, G), NaN = missing, relative to a reference of reward 0 -> weights."""
        ...

    def report(self, weighted: Weighted, completion_loglik: Tensor, reference_loglik: Tensor) -> dict[str, Tensor]:
        """Numbers worth logging, (B,) each, NaN where a group has none.

        Args:
            weighted: what `weigh` gave.
            completion_loglik: J(o_i), (B, G), nats per token; 0 where the weight is 0.
            reference_loglik: J(y), (B,).
        """
        ...
