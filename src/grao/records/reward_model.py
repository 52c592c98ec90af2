"""`reward.json`: how far a trained reward model is right, and how it was trained."""

from typing import Any

from pydantic.dataclasses import dataclass

from grao.records.files import Record
from grao.records.numbers import Estimate


@dataclass(frozen=True)
class PairScores:
    """A reward model on pairs of a better and a worse answer that it has not seen."""

    accuracy: Estimate
    """Share of pairs whose better answer scores higher; a tie is not right."""
    ties: int
    """Pairs with two equal scores."""
    mean_margin: float
    """Mean of r(better) - r(worse)."""
    longer: Estimate
    """Share of pairs whose better answer is the longer one: the accuracy of a reward that counts tokens."""
    length_correlation: float | None
    """Spearman's correlation of r(better) - r(worse) with the difference in tokens; None if one of them is constant."""


@dataclass(frozen=True)
class RewardModelRecord:
    """One trained reward model."""

    scores: PairScores
    trained: int
    """Pairs that it was trained on."""
    left_out: dict[str, int]
    """Reason -> pairs that are neither trained on nor held out."""
    fingerprint: str
    """Of prompts and better answers, `grao.data.load.fingerprint`."""
    steps: int
    seconds: float
    """Of the training alone."""
    started: str
    finished: str
    command: str
    """That repeats the training."""
    seed: int
    config: dict[str, Any]
    """The recipe."""
    versions: dict[str, str]
    git: str | None


_REWARD_MODEL = Record("reward.json", RewardModelRecord)
read_reward_model, write_reward_model = _REWARD_MODEL.read, _REWARD_MODEL.write
