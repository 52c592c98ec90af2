"""`reward.json`: what a reward model was trained on, how, and how well it tells held-out answers apart."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from grao.records.evaluation import Estimate
from grao.records.files import replace_text


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
    """Spearman's correlation of r(better) - r(worse) with the difference in tokens; None where one is constant."""


@dataclass(frozen=True)
class RewardModelRecord:
    """One trained reward model."""

    scores: PairScores
    trained: int
    """Pairs that it was trained on."""
    left_out: dict[str, int]
    """Reason -> pairs that are neither trained on nor held out."""
    fingerprint: str
    """Of prompts and better answers, `grao.data.fingerprint`."""
    steps: int
    seconds: float
    """Of the training alone."""
    started: str
    finished: str
    command: str
    """That does it again."""
    seed: int
    config: dict[str, Any]
    """The recipe."""
    versions: dict[str, str]
    git: str | None


_RECORD = TypeAdapter(RewardModelRecord)


def write_reward_model(folder: Path, record: RewardModelRecord) -> None:
    """Writes `reward.json`, whole or not at all."""
    text = json.dumps(_RECORD.dump_python(record, mode="json"), indent=2, ensure_ascii=False)
    replace_text(folder / "reward.json", text + "\n")


def read_reward_model(folder: Path) -> RewardModelRecord | None:
    """None where there is none."""
    path = folder / "reward.json"
    return _RECORD.validate_json(path.read_bytes()) if path.exists() else None
