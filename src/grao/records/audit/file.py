"""`audit.json`: figures and verdict of an audit with everything they rest on.

Each figure can be recomputed from the readings, groups and timings in the same file.
"""

import json
from dataclasses import field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from grao.records.audit.items import EditItem, GroupItem, PairItem
from grao.records.audit.policy import Forecast, Policy
from grao.records.audit.reward import Agreement, RewardFigures
from grao.records.files import replace_text


@dataclass(frozen=True)
class Finding:
    """Something to fix."""

    problem: str
    """With the figure that says so."""
    remedy: str


@dataclass(frozen=True)
class Verdict:
    """Whether training may begin."""

    safe: bool
    findings: list[Finding]
    """What to fix, empty if safe."""
    unchecked: list[str]
    """What could not be looked at, and what it takes."""


@dataclass(frozen=True)
class Audit:
    """All of it."""

    confidence: float
    """Level of the intervals."""
    rewards: list[RewardFigures]
    """What decides comes first."""
    agreements: list[Agreement]
    policy: Policy
    forecast: Forecast
    verdict: Verdict
    pairs: list[PairItem] = field(default_factory=list)
    edits: list[EditItem] = field(default_factory=list)
    groups: list[GroupItem] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)
    """Recipe, versions, data: as of a run."""


_AUDIT = TypeAdapter(Audit)


def write_audit(folder: Path, audit: Audit) -> Path:
    """Writes `audit.json` whole or not at all and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "audit.json"
    replace_text(path, json.dumps(_AUDIT.dump_python(audit, mode="json"), indent=1, ensure_ascii=False) + "\n")
    return path


def read_audit(folder: Path) -> Audit | None:
    """The audit in a folder, None where there is none."""
    path = folder / "audit.json"
    return _AUDIT.validate_json(path.read_bytes()) if path.exists() else None
