"""`reward.json`: accuracy and training of a reward model."""

from typing import Any

from pydantic.dataclasses import dataclass

from grao.records.files import Record
from grao.records.numbers import Estimate


@dataclass(frozen=True)
class PairScores:
    """Results of a reward model on held-out pairs of a better and a worse answer."""

    accuracy: Estimate
    """Share of pairs whose better answer scores higher; ties count as wrong."""
    ties: int
    """Pairs with equal scores."""
    mean_margin: float
    """Mean of r(better) - r(worse)."""
    longer: Estimate
    """Share of pairs whose better answer is longer: the accuracy of a reward that counts tokens."""
    length_correlation: float | None
    """Spearman's correlation of r(better) - r(worse) with the difference in tokens; None if either is constant."""


@dataclass(frozen=True)
class RewardModelRecord:
    """A trained reward model."""

    scores: PairScores
    trained: int
    """Number of training pairs."""
    left_out: dict[str, int]
    """Reason -> pairs that are neither trained on nor held out."""
    fingerprint: str
    """Fingerprint of prompts and better answers (`grao.data.load.fingerprint`)."""
    steps: int
    seconds: float
    """Duration of the training alone."""
    started: str
    finished: str
    command: str
    """Command that repeats the training."""
    seed: int
    config: dict[str, Any]
    """The recipe."""
    versions: dict[str, str]
    git: str | None


_REWARD_MODEL = Record("reward.json", RewardModelRecord)
read_reward_model, write_reward_model = _REWARD_MODEL.read, _REWARD_MODEL.write
