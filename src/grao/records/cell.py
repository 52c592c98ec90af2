"""`cells/NAME.json`: one training run of a study, small enough to be kept under version control.

Everything that a study says is computed from these files. Verdicts are one letter a prompt, so that a run over 300
prompts takes two or three kilobytes. Left out: the answers themselves and the model.
"""

import json
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from grao.records.files import replace_text

Role = Literal["select", "final"]
"""A run that helps to choose a learning rate, or one that counts."""

Letters = str
"""One letter a prompt: `w` the answer wins, `t` ties, `l` loses, `-` no verdict."""


@dataclass(frozen=True)
class Key:
    """Which run of a study."""

    arm: str
    role: Role
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """`grao-final-lr0.0005-seed0`, also the name of its file."""
        return f"{self.arm}-{self.role}-lr{self.learning_rate:g}-seed{self.seed}"

    @property
    def words(self) -> str:
        """`grao, rate 0.0005, seed 0`."""
        choosing = "choosing: " if self.role == "select" else ""
        return f"{choosing}{self.arm}, rate {self.learning_rate:g}, seed {self.seed}"


@dataclass(frozen=True)
class Point:
    """One evaluation on the way."""

    step: int
    reward_calls: int
    """Rewards asked for in training until then."""
    seconds: float
    """Of training until then, evaluations not counted."""
    ras: float
    mean_reward: float


@dataclass(frozen=True)
class Cost:
    """What a run took."""

    steps: int
    reward_calls: int
    """Rewards asked for in training."""
    tokens_sampled: int
    tokens_trained: int
    seconds: dict[str, float]
    """`training`, of it `rollout`, `reward`, `update`; and `evaluation`, `total`."""


@dataclass(frozen=True)
class Outcomes:
    """The held-out prompts, one letter each, all in the same order."""

    prompts: str
    """Fingerprint of prompts and references: only equal ones can be paired."""
    after: Letters
    """The trained model against the references."""
    mean_reward: float
    """Of `after`, R(o, y)."""
    mean_tokens: float
    truncated: float
    """Share of answers cut at the token limit."""
    before: Letters = ""
    """The model before training against the references; empty for a selection."""
    gain: Letters = ""
    """The answer after training against the one before."""


@dataclass(frozen=True)
class CellRecord:
    """One run: finished with outcomes and cost, or failed with an error."""

    key: Key
    settings: dict[str, Any]
    """Dotted field -> value: all that decides the result. A record with other settings does not count."""
    started: str
    finished: str
    versions: dict[str, str]
    git: str | None
    outcomes: Outcomes | None = None
    cost: Cost | None = None
    curve: list[Point] = field(default_factory=list)
    """From before training, step 0, to the end."""
    error: str | None = None
    """Of a failed run, in one line."""


_RECORD = TypeAdapter(CellRecord)


def write_cell(folder: Path, record: CellRecord) -> None:
    """Writes `cells/NAME.json` into the folder of a study, whole or not at all."""
    path = cell_path(folder, record.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_RECORD.dump_python(record, mode="json"), indent=1, ensure_ascii=False)
    replace_text(path, text + "\n")


def read_cell(folder: Path, key: Key) -> CellRecord | None:
    """None where there is none, or one that cannot be read: that run is done again."""
    try:
        return _RECORD.validate_json(cell_path(folder, key).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def cell_path(folder: Path, key: Key) -> Path:
    """Where the record of a run stands."""
    return folder / "cells" / f"{key.name}.json"
