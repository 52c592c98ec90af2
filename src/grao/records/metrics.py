"""`metrics.jsonl`: one JSON object per training step, appended as it happens, readable while the run goes on."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from grao.records.files import replace_text

Step = dict[str, float]
"""Name -> value; `step` counts optimiser steps from 1. Names with a slash belong together: `terms/imitation`."""


class MetricsLog:
    """Appends steps to `metrics.jsonl`, each at once, so that nothing is lost when a run is killed.

    Args:
        folder: the run folder; it is made with the first line.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"

    def append(self, step: Mapping[str, float]) -> None:
        """Writes one line; values that are not finite become null."""
        clean = {name: value if math.isfinite(value) else None for name, value in step.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(clean) + "\n")

    def keep_until(self, step: int) -> float:
        """Forgets the lines after `step`, which a resumed run repeats; returns the seconds spent until then."""
        if not self.path.exists():
            return 0.0
        kept = [line for line in read_metrics(self.path.parent) if line["step"] <= step]
        replace_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        return kept[-1].get("seconds", 0.0) if kept else 0.0


def read_metrics(folder: Path) -> list[Step]:
    """All complete lines in order, without the values that are missing; a half-written last line is left out."""
    path = folder / "metrics.jsonl"
    steps: list[Step] = []
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else []:
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            break
        steps.append({name: value for name, value in values.items() if value is not None})
    return steps
