"""What an evaluation leaves behind: `evaluation.json` (the numbers) and `items.jsonl` (every answer and verdict).

Each number of the first file can be recomputed from the second.
"""

import json
from collections.abc import Iterable
from dataclasses import field
from pathlib import Path

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from grao.records.files import replace_text


@dataclass(frozen=True)
class Estimate:
    """A measured number with its interval over prompts."""

    value: float
    low: float
    high: float
    n: int
    """Prompts it rests on."""


@dataclass(frozen=True)
class Scores:
    """One model against the references."""

    ras: Estimate
    """Relative adversarial score: share of strict wins over the reference."""
    ras_win_or_tie: Estimate
    ras_half_tie: Estimate
    """Wins + half of the ties."""
    missing: int
    """Prompts whose verdict could not be had; they are in no estimate."""
    mean_reward: float | None
    """Mean of R(o, y)."""
    mean_tokens: float
    truncated: float
    """Share of answers cut at the token limit."""


@dataclass(frozen=True)
class Gain:
    """One model against another on the same prompts."""

    model: str
    baseline: str
    nag: Estimate
    """Normalised alignment gain, net: (wins - losses) / N."""
    nag_win: Estimate
    """The paper's formula as printed: wins / N."""
    relative_ras: Estimate | None
    """RAS(model) / RAS(baseline) - 1; None where the baseline never wins."""
    missing: int = 0


@dataclass(frozen=True)
class Evaluation:
    """The headline numbers of a run."""

    confidence: float
    prompts: int
    models: dict[str, Scores]
    """By name, in the order of evaluation: `before`, `after`."""
    gains: list[Gain] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """What one model said to one prompt."""

    text: str
    tokens: int
    truncated: bool
    reward: float | None
    """R(o, y) against the reference: above 0 wins, 0 ties, below 0 loses, None is missing."""
    token_ids: list[int]
    """As sampled, the token that ended it included."""


@dataclass(frozen=True)
class Item:
    """One held-out prompt."""

    id: str
    prompt: str
    reference: str
    answers: dict[str, Answer]
    """By model name."""
    comparisons: dict[str, float | None] = field(default_factory=dict)
    """`after|before` -> R of the first against the second."""


_EVALUATION = TypeAdapter(Evaluation)
_ITEM = TypeAdapter(Item)


def write_evaluation(folder: Path, evaluation: Evaluation, items: Iterable[Item]) -> None:
    """Writes `evaluation.json` and `items.jsonl` into a run folder, each whole or not at all."""
    lines = (json.dumps(_ITEM.dump_python(item, mode="json"), ensure_ascii=False) + "\n" for item in items)
    replace_text(folder / "items.jsonl", "".join(lines))
    text = json.dumps(_EVALUATION.dump_python(evaluation, mode="json"), indent=2)
    replace_text(folder / "evaluation.json", text + "\n")


def read_evaluation(folder: Path) -> Evaluation | None:
    """The numbers of a run, None where it was not evaluated."""
    path = folder / "evaluation.json"
    return _EVALUATION.validate_json(path.read_bytes()) if path.exists() else None


def read_items(folder: Path) -> list[Item]:
    """Every held-out prompt with its answers, in order; empty where the run was not evaluated."""
    path = folder / "items.jsonl"
    if not path.exists():
        return []
    return [_ITEM.validate_json(line) for line in path.read_bytes().split(b"\n") if line]
