"""What lies in a folder of runs, one line each: `grao runs`."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from grao.errors import InputError
from grao.records.run import Evaluation, Manifest, read_evaluation, read_manifest, read_metrics
from grao.records.study import read_study
from grao.reports.tables import Table, duration, plain_table, share

_DEEPEST = 3
"""Levels of folders that are looked at."""
_COLUMNS = ["Run", "Status", "Method", "Steps", "RAS", "Started", "Took", "Model"]
_NARROW, _WIDE = 6, 110
"""Columns that fit 80 characters, and the width from which all do."""


def runs_table(folder: Path, width: int) -> Table:
    """Every run and study below a folder, by name.

    Args:
        folder: that holds them.
        width: of the terminal; where it is narrow, the last columns are left out.

    Raises:
        InputError: if there is none.
    """
    rows = [_row(path, str(path.relative_to(folder)) if path != folder else path.name) for path in _found(folder)]
    if not rows:
        raise InputError(f"{folder}: holds no run and no study; give the folder that your runs are in")
    shown = len(_COLUMNS) if width >= _WIDE else _NARROW
    table = plain_table(f"{len(rows):,} in {folder}", _COLUMNS[:shown], [row[:shown] for row in rows])
    return replace(table, names=2)


def _found(folder: Path) -> Iterator[Path]:
    """Folders with the records of a run or a study; what lies inside of one belongs to it."""
    for inside, folders, names in os.walk(folder):
        path = Path(inside)
        if {"manifest.json", "study.json"} & set(names):
            folders.clear()
            yield path
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(path.relative_to(folder).parts) >= _DEEPEST:
            folders.clear()


def _row(path: Path, name: str) -> list[str]:
    """A folder that cannot be read says so in its line, and the others are shown."""
    try:
        if study := read_study(path):
            best = max(study.arms, key=lambda arm: arm.ras.over_prompts.value) if study.arms else None
            ras = f"{share(best.ras.over_prompts)} ({best.arm})" if best else ""
            return [name, "study", f"{len(study.arms)} arms", "", ras, "", "", ""]
        return _run_row(path, name, read_manifest(path) or Manifest())
    except InputError:
        return [name, "unreadable", *[""] * (len(_COLUMNS) - 2)]


def _run_row(path: Path, name: str, manifest: Manifest) -> list[str]:
    steps, evaluation = read_metrics(path), read_evaluation(path)
    taken = f"{int(steps[-1].get('step', 0)):,}" if steps else "0"
    seconds = manifest.seconds
    return [
        name,
        manifest.status or ("evaluated" if evaluation else ""),
        ", ".join(manifest.stages) or str(manifest.setting("method", "name") or ""),
        f"{taken}/{manifest.steps:,}" if manifest.steps else taken,
        _ras(evaluation) if evaluation else "",
        (manifest.started or "")[:10],
        duration(seconds) if seconds is not None else "",
        Path(str(manifest.setting("model", "path") or "")).name,
    ]


def _ras(evaluation: Evaluation) -> str:
    """`37.1 % to 59.5 %` of a training, `59.5 % (best of 3)` of several models."""
    known = [scores.ras for scores in evaluation.models.values()]
    if "after" in evaluation.models or len(known) < 2:
        return " to ".join(map(share, known))
    return f"{share(max(known, key=lambda ras: ras.value))} (best of {len(known)})"
